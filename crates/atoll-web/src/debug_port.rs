//! The debug port: one sandbox's agent on a fixed loopback port of the host, for clients that know no other address.
//!
//! How it works: who creates a sandbox may ask for it, one sandbox at a time; the claim is made before the sandbox, so that a second is
//! refused before it costs anything. Each request is passed on over a connection of its own to the agent, with the agent's token
//! added; bodies stream both ways. Only the agent's public calls are passed on; `/init` and the rest of what belongs to the
//! host is not there. A request that a browser's page could have caused (an Origin, a Host that is no loopback name) is refused.
//! It ends with the sandbox, and with this Atoll: a later one does not open it again by itself.
//!
//! Deliberately absent: authentication. Whoever runs programs on this machine may use the port, which is why it is asked for.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use atoll_control::sandboxes::{AgentConnection, AgentUses, CreateInput};
use atoll_control::{Control, ControlError, Done, Once};
use atoll_domain::record::Sandbox;
use atoll_domain::{Principal, SandboxId};
use bytes::Bytes;
use http::header::{self, HeaderName};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::WebError;

/// Most connections at once.
const CONNECTIONS: usize = 64;
/// How long a request's head may take to come, and how long a connection may idle.
const HEAD_TIME: Duration = Duration::from_secs(75);
/// How long the agent may take to begin its answer; an upload is answered at its end.
const ANSWER_TIME: Duration = Duration::from_secs(15 * 60);
/// Most bytes of a head, of both sides.
const HEAD_BYTES: usize = 64 * 1024;
/// Most fields of a head, of both sides.
const HEAD_FIELDS: usize = 100;
/// How soon the end of a sandbox is seen.
const LOOK: Duration = Duration::from_millis(500);
/// How long the port of a sandbox that has ended may take to be free.
const FREED: Duration = Duration::from_secs(5);
/// How long to wait after a failed accept.
const BACKOFF: Duration = Duration::from_millis(100);
const TOKEN: HeaderName = HeaderName::from_static("x-access-token");
/// What belongs to one connection alone, and what this side says itself.
const NOT_PASSED_ON: [HeaderName; 8] = [
    header::CONNECTION,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    TOKEN,
];

type Body = BoxBody<Bytes, hyper::Error>;

/// The debug port of one Atoll. Clones are handles to the same.
#[derive(Debug, Clone)]
pub struct DebugPort(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    address: SocketAddr,
    tasks: TaskTracker,
    stop: CancellationToken,
    held: watch::Sender<Option<Held>>,
}

/// Whose it is.
#[derive(Debug)]
struct Held {
    /// The idempotency key of the request that took it.
    key: Option<String>,
    /// Known once it is made, with who made it.
    sandbox: Option<(SandboxId, Principal)>,
    /// Where it listens.
    address: SocketAddr,
    /// Cancelled when it is to be given back.
    ended: CancellationToken,
}

/// The port, taken for a sandbox that is to be made; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Claim {
    port: DebugPort,
    /// There until it is given back.
    listener: Option<TcpListener>,
    ended: CancellationToken,
}

impl Drop for Claim {
    fn drop(&mut self) {
        // First: who takes it next binds the same address.
        self.listener = None;
        self.port.0.held.send_replace(None);
    }
}

impl DebugPort {
    /// Where the clients of that family look for an agent.
    pub const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 49983);

    /// A port that nobody has yet; everything about it ends at `stop`.
    pub fn new(address: SocketAddr, stop: CancellationToken) -> Self {
        Self(Arc::new(Inner { address, tasks: TaskTracker::new(), stop, held: watch::Sender::new(None) }))
    }

    /// Where it is served now, if it is.
    pub fn address(&self) -> Option<SocketAddr> {
        self.0.held.borrow().as_ref().filter(|held| held.sandbox.is_some()).map(|held| held.address)
    }

    /// Waits until it was stopped and nothing of it runs any more.
    pub async fn stopped(&self) {
        self.0.stop.cancelled().await;
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Takes it from a sandbox that has ended, which is else seen a moment later.
    async fn free(&self, control: &Control) {
        let holder = self.0.held.borrow().as_ref().and_then(|held| Some((held.sandbox.clone()?, held.ended.clone())));
        let Some(((id, owner), ended)) = holder else { return };
        if is_over(control, &owner, id.as_str()).await {
            ended.cancel();
            let mut slot = self.0.held.subscribe();
            // Given back, or taken by the next already. One that is not given back is still taken.
            let freed = slot.wait_for(|held| held.as_ref().is_none_or(|held| !held.ended.is_cancelled()));
            let _ = tokio::time::timeout(FREED, freed).await;
        }
    }

    /// Takes the port; nothing when the same request has it already, under its idempotency key.
    pub(crate) async fn claim(&self, control: &Control, key: Option<&str>) -> Result<Option<Claim>, WebError> {
        let taken = |held: &Held| match &held.sandbox {
            Some((id, _)) => WebError::DebugPort(format!(
                "sandbox `{id}` has the debug port ({}); it is free again when that sandbox is destroyed",
                held.address
            )),
            None => WebError::DebugPort("a sandbox that is being made has the debug port".into()),
        };
        // Of whoever has it, if somebody has.
        let answer = || {
            let held = self.0.held.borrow();
            let is_ours = |held: &Held| key.is_some() && held.key.as_deref() == key;
            held.as_ref().map(|held| if is_ours(held) { Ok(None) } else { Err(taken(held)) })
        };
        self.free(control).await;
        if let Some(answer) = answer() {
            return answer;
        }
        let address = self.0.address;
        let listener = match TcpListener::bind(address).await {
            Ok(listener) => listener,
            Err(error) => {
                let why = format!("the debug port {address} cannot be had ({error}): another program may have it");
                return answer().unwrap_or(Err(WebError::DebugPort(why)));
            }
        };
        let address = listener.local_addr().unwrap_or(address);
        let ended = self.0.stop.child_token();
        let mut refused = None;
        self.0.held.send_if_modified(|slot| {
            refused = slot.as_ref().map(taken);
            if refused.is_none() {
                *slot = Some(Held { key: key.map(str::to_owned), sandbox: None, address, ended: ended.clone() });
            }
            refused.is_none()
        });
        match refused {
            Some(refused) => Err(refused),
            None => Ok(Some(Claim { port: self.clone(), listener: Some(listener), ended })),
        }
    }

    /// Makes a sandbox and serves it; a client that goes away changes nothing about either.
    pub(crate) async fn create(
        &self,
        claim: Option<Claim>,
        control: &Control,
        caller: &Principal,
        input: CreateInput,
        once: Option<Once>,
    ) -> Result<Done<Sandbox>, ControlError> {
        let (tasks, control, caller) = (self.0.tasks.clone(), control.clone(), caller.clone());
        let task = self.0.tasks.spawn(async move {
            let done = control.create_sandbox_once(&caller, input, once).await?;
            if let Some(claim) = claim {
                claim.port.0.held.send_modify(|held| {
                    if let Some(held) = held {
                        held.sandbox = Some((done.value.id.clone(), caller.clone()));
                    }
                });
                tasks.spawn(claim.serve(control, caller, done.value.id.to_string()));
            }
            Ok(done)
        });
        task.await.map_err(|_| ControlError::Stopping)?
    }
}

impl Claim {
    /// Serves until the sandbox ends or Atoll stops.
    async fn serve(self, control: Control, caller: Principal, id: String) {
        let ended = self.ended.clone();
        let forward = Forward { control, caller, id, tasks: self.port.0.tasks.clone(), ended: ended.clone() };
        tokio::select! {
            () = self.accept(&forward) => {}
            () = forward.until_over() => {}
            () = ended.cancelled() => {}
        }
        ended.cancel();
        tracing::info!(sandbox.id = %forward.id, "the debug port is closed");
    }

    async fn accept(&self, forward: &Forward) {
        let Some(listener) = &self.listener else { return };
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            // The semaphore is never closed.
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let forward = forward.clone();
                    self.port.0.tasks.spawn(async move {
                        forward.connection(stream).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection to the debug port could not be accepted");
                    tokio::time::sleep(BACKOFF).await;
                }
            }
        }
    }
}

/// Whether the one that the port was opened for has ended.
async fn is_over(control: &Control, owner: &Principal, id: &str) -> bool {
    match control.sandbox(owner, id).await {
        Ok(sandbox) => sandbox.status.is_over(),
        // A database that does not answer this moment says nothing about the sandbox.
        Err(error) => matches!(error, ControlError::NotFound { .. }),
    }
}

/// What a connection needs.
#[derive(Clone)]
struct Forward {
    control: Control,
    caller: Principal,
    id: String,
    tasks: TaskTracker,
    ended: CancellationToken,
}

impl Forward {
    async fn until_over(&self) {
        while !is_over(&self.control, &self.caller, &self.id).await {
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn connection(self, stream: TcpStream) {
        // Small answers go out at once; a socket that refuses this is still a socket.
        let _ = stream.set_nodelay(true);
        let ended = self.ended.clone();
        let service = hyper::service::service_fn(move |request| {
            let forward = self.clone();
            async move { Ok::<_, Infallible>(forward.request(request).await) }
        });
        let connection = server::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_headers(HEAD_FIELDS)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        let served = tokio::select! {
            // First: what ends it may have cut the agent off, too.
            biased;
            () = ended.cancelled() => return,
            served = connection => served,
        };
        if let Err(error) = served {
            tracing::debug!(%error, "a connection to the debug port ended");
        }
    }

    async fn request(&self, request: Request<Incoming>) -> Response<Body> {
        if let Some((status, code, message)) = refusal(&request) {
            return answer(status, code, message);
        }
        match self.control.agent_connection(&self.caller, &self.id).await {
            Ok(connection) => self.pass_on(request, connection).await,
            Err(error) => {
                tracing::debug!(%error, "the debug port found no agent");
                answer(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "the sandbox's agent cannot be reached")
            }
        }
    }

    async fn pass_on(&self, request: Request<Incoming>, agent: AgentConnection) -> Response<Body> {
        let AgentConnection { stream, token, permit, waiting, uses } = agent;
        let failed = |what: &str| answer(StatusCode::BAD_GATEWAY, "unavailable", what);
        let shaken = client::Builder::new()
            .max_headers(HEAD_FIELDS)
            .max_buf_size(HEAD_BYTES)
            .handshake::<_, Body>(TokioIo::new(stream))
            .await;
        let Ok((mut sender, connection)) = shaken else { return failed("the agent does not speak") };
        let ended = self.ended.clone();
        // It lives until both bodies have ended or one side has gone.
        self.tasks.spawn(async move {
            if let Some(Err(error)) = ended.run_until_cancelled(connection).await {
                tracing::debug!(%error, "a connection to an agent ended");
            }
            drop(permit);
        });
        let (mut head, body) = request.into_parts();
        for name in NOT_PASSED_ON {
            head.headers.remove(name);
        }
        let Ok(mut token) = HeaderValue::from_str(token.expose()) else { return failed("the token is none") };
        token.set_sensitive(true);
        head.headers.insert(TOKEN, token);
        let request = Request::from_parts(head, counted(body, uses.clone()));
        let answered = tokio::time::timeout(ANSWER_TIME, sender.send_request(request)).await;
        drop(waiting);
        match answered {
            Ok(Ok(mut response)) => {
                for name in NOT_PASSED_ON {
                    response.headers_mut().remove(name);
                }
                response.map(|body| counted(body, uses))
            }
            Ok(Err(_)) => failed("the agent did not answer"),
            Err(_) => answer(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", "the agent took too long"),
        }
    }
}

/// A body each piece of which is a use of the sandbox; a connection over which nothing passes is none.
fn counted(body: Incoming, uses: AgentUses) -> Body {
    let noted = body.map_frame(move |frame| {
        uses.note();
        frame
    });
    noted.boxed()
}

/// Why a request is not passed on.
fn refusal<B>(request: &Request<B>) -> Option<(StatusCode, &'static str, &'static str)> {
    if request.headers().contains_key(header::ORIGIN) {
        return Some((StatusCode::FORBIDDEN, "permission_denied", "pages have no business here"));
    }
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    if !is_loopback(host) {
        return Some((StatusCode::FORBIDDEN, "permission_denied", "ask for 127.0.0.1 or localhost"));
    }
    let path = request.uri().path();
    let public = matches!(path, "/health" | "/metrics" | "/envs" | "/files")
        || ["/process.Process/", "/filesystem.Filesystem/"].iter().any(|service| path.starts_with(service));
    let plain = !path.contains("..") && !path.contains('%');
    (!(public && plain)).then_some((StatusCode::NOT_FOUND, "not_found", "the debug port has no such path"))
}

/// Whether a Host header names this machine's loopback: another name would be a page that had its own name lead here.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn answer(status: StatusCode, code: &str, message: &str) -> Response<Body> {
    let text = serde_json::json!({ "code": code, "message": message }).to_string();
    let mut response = Response::new(Full::from(text).map_err(|never| match never {}).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_calls_of_programs_on_this_machine_are_passed_on() {
        let asked = |path: &str, host: &str, origin: Option<&str>| {
            let mut request = Request::builder().uri(path).header("host", host);
            if let Some(origin) = origin {
                request = request.header("origin", origin);
            }
            refusal(&request.body(()).unwrap()).map(|(status, ..)| status.as_u16())
        };
        for path in ["/health", "/files?path=/x", "/process.Process/Start", "/filesystem.Filesystem/Stat"] {
            for host in ["127.0.0.1:49983", "localhost", "LOCALHOST:1", "[::1]:49983"] {
                assert_eq!(asked(path, host, None), None, "{path} {host}");
            }
            assert_eq!(asked(path, "127.0.0.1", Some("http://127.0.0.1")), Some(403));
            for host in ["evil.example", "evil.example:49983", "127.0.0.1.evil.example", "", "10.0.0.1"] {
                assert_eq!(asked(path, host, None), Some(403), "{host}");
            }
        }
        for path in [
            "/init",
            "/init/",
            "/%69nit",
            "//init",
            "/snapshot/prepare",
            "/unfreeze",
            "/disk/grow",
            "/",
            "/x/../init",
            "/process.Process/../init",
            "/process.Process/%2e%2e/init",
        ] {
            assert_eq!(asked(path, "localhost", None), Some(404), "{path}");
        }
    }
}
