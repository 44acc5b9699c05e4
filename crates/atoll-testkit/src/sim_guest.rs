//! A simulated guest agent: just enough of the wire for commands and files.
//!
//! How it works: an HTTP/1.1 server over an in-memory stream. A handful of programs exist (`echo`, `true`, `false`, `env`, `cat`, and `sleep`,
//! for which no time passes); files are a map. The token is checked as the real agent checks it.
//!
//! Deliberately absent: everything that needs a kernel. Those tests boot real guests.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use atoll_domain::host::SandboxSecrets;
use atoll_guest_client::GuestStream;
use atoll_proto::process as wire;
use buffa::Message as _;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use wire::__buffa::oneof::process_event::{self, data_event};

const PIPE: usize = 64 * 1024;
const END: u8 = 2;

/// What a simulated program does.
struct Outcome {
    stdout: Vec<u8>,
    exit_code: i32,
}

/// Files by their path.
pub(crate) type Files = BTreeMap<String, Bytes>;

/// A simulated guest agent of one sandbox.
#[derive(Debug)]
pub struct SimGuest {
    secrets: SandboxSecrets,
    files: Mutex<Files>,
}

impl SimGuest {
    pub(crate) fn new(secrets: SandboxSecrets, files: Files) -> Self {
        Self { secrets, files: Mutex::new(files) }
    }

    /// The same guest in a later life.
    pub(crate) fn resumed(&self, secrets: SandboxSecrets) -> Self {
        Self::new(secrets, self.all_files())
    }

    /// Its files now.
    pub(crate) fn all_files(&self) -> Files {
        self.files().clone()
    }

    /// A stream to it; the server at its other end lives until the stream or the sandbox ends.
    pub(crate) fn connect(self: &Arc<Self>, tasks: &TaskTracker, ended: &CancellationToken) -> GuestStream {
        let (near, far) = tokio::io::duplex(PIPE);
        let (guest, ended) = (Arc::clone(self), ended.clone());
        tasks.spawn(async move {
            let service = service_fn(move |request| {
                let guest = Arc::clone(&guest);
                async move { Ok::<_, Infallible>(guest.answer(request).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(far), service);
            // What goes wrong on one connection is its caller's to see.
            let _ = ended.run_until_cancelled(connection).await;
        });
        Box::new(near)
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await.map(|body| body.to_bytes()) else {
            return refusal(StatusCode::BAD_REQUEST, "invalid_argument", None);
        };
        if head.uri.path() == "/health" {
            return ok("application/json", r#"{"version":"simulated"}"#);
        }
        let token = head.headers.get("x-access-token").and_then(|value| value.to_str().ok());
        if token != Some(self.secrets.token.expose()) {
            return refusal(StatusCode::UNAUTHORIZED, "unauthenticated", Some("bad_token"));
        }
        match (&head.method, head.uri.path()) {
            (&Method::POST, "/process.Process/Start") => self.start(&body),
            // No time passes, so nothing runs.
            (&Method::POST, "/process.Process/List") => ok("application/proto", Bytes::new()),
            (&Method::GET, "/files") => self.read(head.uri.query().unwrap_or_default()),
            (&Method::POST, "/files") => self.write(head.uri.query().unwrap_or_default(), body),
            _ => refusal(StatusCode::NOT_FOUND, "unimplemented", None),
        }
    }

    fn start(&self, body: &[u8]) -> Response<Full<Bytes>> {
        let decoded = body.get(5..).and_then(|message| wire::StartRequest::decode_from_slice(message).ok());
        let Some(process) = decoded.and_then(|request| request.process.into_option()) else {
            return refusal(StatusCode::BAD_REQUEST, "invalid_argument", None);
        };
        if process.cwd.as_deref().is_some_and(|cwd| cwd != "/" && cwd != "/root") {
            return refusal(StatusCode::BAD_REQUEST, "invalid_argument", Some("bad_cwd"));
        }
        let mut out = BytesMut::new();
        match self.run(&process) {
            Ok(outcome) => {
                event(&mut out, process_event::Event::Start(Box::new(started())));
                if !outcome.stdout.is_empty() {
                    event(&mut out, process_event::Event::Data(Box::new(stdout(outcome.stdout))));
                }
                event(&mut out, process_event::Event::End(Box::new(ended(outcome.exit_code))));
                frame(&mut out, END, b"{}");
            }
            Err("deadline") => frame(&mut out, END, br#"{"error":{"code":"deadline_exceeded","message":"killed"}}"#),
            Err(reason) => {
                let end = format!(
                    r#"{{"error":{{"code":"not_found","message":"no"}},"metadata":{{"atoll-reason":["{reason}"]}}}}"#
                );
                frame(&mut out, END, end.as_bytes());
            }
        }
        ok("application/connect+proto", out.freeze())
    }

    fn run(&self, process: &wire::ProcessConfig) -> Result<Outcome, &'static str> {
        let done = |stdout: Vec<u8>, exit_code| Ok(Outcome { stdout, exit_code });
        match process.cmd.as_str() {
            "true" => done(Vec::new(), 0),
            "false" => done(Vec::new(), 1),
            "echo" => done(format!("{}\n", process.args.join(" ")).into_bytes(), 0),
            "env" => {
                let envs = self.secrets.envs.iter().map(|(k, v)| (k.clone(), v.clone()));
                let envs: BTreeMap<_, _> =
                    envs.chain(process.envs.iter().map(|(k, v)| (k.clone(), v.clone()))).collect();
                done(envs.iter().flat_map(|(k, v)| format!("{k}={v}\n").into_bytes()).collect(), 0)
            }
            "cat" => {
                let path = process.args.first().cloned().unwrap_or_default();
                let file = self.files().get(&path).cloned();
                file.map_or_else(|| done(Vec::new(), 1), |bytes| done(bytes.to_vec(), 0))
            }
            "sleep" => Err("deadline"),
            _ => Err("program_not_found"),
        }
    }

    fn files(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, query: &str) -> Response<Full<Bytes>> {
        match path_in(query).and_then(|path| self.files().get(&path).cloned()) {
            Some(bytes) => ok("application/octet-stream", bytes),
            None => refusal(StatusCode::NOT_FOUND, "not_found", None),
        }
    }

    fn write(&self, query: &str, body: Bytes) -> Response<Full<Bytes>> {
        let Some(path) = path_in(query) else {
            return refusal(StatusCode::BAD_REQUEST, "invalid_argument", None);
        };
        let name = path.rsplit('/').next().unwrap_or_default().to_owned();
        let written = serde_json::json!([{ "path": path, "name": name, "type": "file" }]);
        self.files().insert(path, body);
        ok("application/json", written.to_string())
    }
}

fn path_in(query: &str) -> Option<String> {
    let path = query.split('&').find_map(|pair| pair.strip_prefix("path="))?;
    Some(percent_decode_str(path).decode_utf8().ok()?.into_owned())
}

fn started() -> wire::process_event::StartEvent {
    wire::process_event::StartEvent { pid: 100, offset: Some(0), ..Default::default() }
}

fn stdout(bytes: Vec<u8>) -> wire::process_event::DataEvent {
    wire::process_event::DataEvent { output: Some(data_event::Output::Stdout(bytes)), ..Default::default() }
}

fn ended(exit_code: i32) -> wire::process_event::EndEvent {
    wire::process_event::EndEvent { exit_code, exited: true, ..Default::default() }
}

fn event(out: &mut BytesMut, event: process_event::Event) {
    let event = wire::ProcessEvent { event: Some(event), ..Default::default() };
    let message = wire::StartResponse { event: event.into(), ..Default::default() };
    frame(out, 0, &message.try_encode_to_bytes().expect("a small message encodes"));
}

fn frame(out: &mut BytesMut, flags: u8, payload: &[u8]) {
    out.put_u8(flags);
    out.put_u32(u32::try_from(payload.len()).expect("a small frame"));
    out.put_slice(payload);
}

fn ok(content_type: &str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let response = Response::builder().header(http::header::CONTENT_TYPE, content_type);
    response.body(Full::new(body.into())).expect("a valid head")
}

fn refusal(status: StatusCode, code: &str, reason: Option<&str>) -> Response<Full<Bytes>> {
    let mut response = Response::builder().status(status).header(http::header::CONTENT_TYPE, "application/json");
    if let Some(reason) = reason {
        response = response.header("atoll-reason", reason);
    }
    let body = format!(r#"{{"code":"{code}","message":"simulated"}}"#);
    response.body(Full::new(body.into())).expect("a valid head")
}
