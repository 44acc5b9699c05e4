//! A whole service on a port of its own: real routes, real control plane on SQLite, and a real guest agent as an ordinary process.
//!
//! How it works: [`crate::agent_host`] is a host whose every sandbox is that one agent, so that commands, files and terminals are real and no VM is
//! needed. The agent's program is built when it is not there yet.
//!
//! Deliberately absent: isolation. What sandboxes keep from each other is tested with VMs.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use atoll_control::ports::{HostDriver, SystemClock};
use atoll_control::{Control, RequestKey, SealingKey};
use atoll_domain::host::{HostError, Room};
use atoll_domain::scrub::Damage;
use atoll_store::Store;
use atoll_web::{DebugPort, Web, serve_local, serve_tcp};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::sync::CancellationToken;

use crate::agent_host::{AgentHost, Gate, Lie};

/// How long anything may take on a machine that is busy with other tests.
pub(crate) const DEADLINE: Duration = Duration::from_secs(150);

/// The agent's program: what `cargo xtask test` has built, else built here once.
fn agent_program() -> PathBuf {
    if let Some(built) = option_env!("ATOLL_EMBED_GUEST") {
        return built.into();
    }
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM
        .get_or_init(|| {
            let test = std::env::current_exe().unwrap();
            let profile = test.parent().and_then(|deps| deps.parent()).unwrap().to_owned();
            let mut build = Command::new(env!("CARGO"));
            build.args(["build", "--quiet", "--package", "atoll-guest"]);
            if profile.ends_with("release") {
                build.arg("--release");
            }
            assert!(build.status().unwrap().success(), "the guest agent does not build");
            profile.join("atoll-guest")
        })
        .clone()
}

/// A guest agent that ends with its test.
struct Agent {
    child: Child,
    address: String,
}

impl Agent {
    fn start() -> Self {
        let mut child = Command::new(agent_program())
            .args(["agent", "--listen", "127.0.0.1:0", "--no-init"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines
            .find_map(|line| line.unwrap().strip_prefix("atoll: agent listens on ").map(str::to_owned))
            .expect("the agent says where it listens");
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The service under test.
pub(crate) struct Service {
    pub(crate) address: String,
    pub(crate) key: String,
    pub(crate) socket: PathBuf,
    /// A directory that the agent's processes can use, too.
    pub(crate) dir: tempfile::TempDir,
    host: Arc<AgentHost>,
    stop: CancellationToken,
    served: Vec<JoinHandle<()>>,
    pub(crate) debug_port: DebugPort,
    _agent: Agent,
}

impl Service {
    pub(crate) async fn start() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "the agent starts programs as other users: run this as root");
        let agent = Agent::start();
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_sqlite(&dir.path().join("atoll.db")).await.unwrap();
        let host = Arc::new(AgentHost::new(agent.address.clone()));
        let driver: Arc<dyn HostDriver> = host.clone();
        let (control, first) =
            Control::start(store, driver, Arc::new(SystemClock), RequestKey::new([7; 32]), SealingKey::new([9; 32]))
                .await
                .unwrap();
        let stop = CancellationToken::new();
        let debug_port = DebugPort::new(([127, 0, 0, 1], 0).into(), stop.clone());
        let web = Web { control, version: "0.0.0-test", debug_port: debug_port.clone() };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let socket = dir.path().join("atoll.sock");
        let local = UnixListener::bind(&socket).unwrap();
        let served = vec![
            tokio::spawn(serve_tcp(listener, web.clone(), stop.clone())),
            tokio::spawn(serve_local(local, web, stop.clone())),
        ];
        let key = first.unwrap().api_key;
        Self { address, key, socket, dir, host, stop, served, debug_port, _agent: agent }
    }

    /// The service with one sandbox.
    pub(crate) async fn with_sandbox() -> (Self, String) {
        let service = Self::start().await;
        let made = service.post("/v1/sandboxes", "{}").await;
        assert_eq!(made.status, 201, "{made:?}");
        let id = made.json()["id"].as_str().unwrap().to_owned();
        (service, id)
    }

    /// Makes the next create or destroy fail.
    pub(crate) fn fail_next(&self, error: HostError) {
        *self.host.fault.lock().unwrap() = Some(error);
    }

    /// Lets scrubs find this.
    pub(crate) fn spoil(&self, damaged: Vec<Damage>) {
        *self.host.damaged.lock().unwrap() = damaged;
    }

    /// Changes what is left of the host's machine.
    pub(crate) fn set_room(&self, change: impl FnOnce(&mut Room)) {
        change(&mut self.host.room.lock().unwrap());
    }

    /// The id of the template that was made last.
    pub(crate) fn last_template(&self) -> String {
        self.host.template.lock().unwrap().clone()
    }

    /// Makes the agent say this instead of its answers, until it is told otherwise.
    pub(crate) fn lie(&self, lie: Option<Lie>) {
        *self.host.lie.lock().unwrap() = lie;
    }

    /// Lets the agent say that it is one from before operations.
    pub(crate) fn age_agent(&self) {
        self.host.is_old.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// Lets the next process start, and loses the answer.
    pub(crate) fn lose_next_start(&self) {
        self.host.lose_start.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// Whether the body of an answer breaks off.
    pub(crate) async fn broken(&self, path: &str, body: &str) -> bool {
        let stream = TcpStream::connect(&self.address).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let request = Request::post(path).header("x-api-key", &self.key).header("content-type", "application/json");
        let request = request.header("host", "atoll").body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        let all = async { sender.send_request(request).await.unwrap().into_body().collect().await.is_err() };
        let broken = tokio::time::timeout(DEADLINE, all).await.expect("it is answered");
        connection.abort();
        broken
    }

    /// Makes the next create wait.
    pub(crate) fn hold_next_create(&self) -> Gate {
        let gate = Gate::default();
        *self.host.gate.lock().unwrap() = Some(gate.clone());
        gate
    }

    /// Makes the next connection to the agent wait.
    pub(crate) fn hold_next_stream(&self) -> Gate {
        let gate = Gate::default();
        *self.host.stream_gate.lock().unwrap() = Some(gate.clone());
        gate
    }

    /// Asks it to stop and waits until it has.
    pub(crate) async fn shut_down(mut self) {
        self.stop.cancel();
        tokio::time::timeout(DEADLINE, self.debug_port.stopped()).await.expect("the debug port closes");
        for served in self.served.drain(..) {
            tokio::time::timeout(DEADLINE, served).await.expect("it stops").unwrap();
        }
    }

    /// Asks it to stop and does not wait.
    pub(crate) fn begin_stop(&self) {
        self.stop.cancel();
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, &[], "").await
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.call(Method::POST, path, &[("content-type", "application/json")], body).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.call(Method::DELETE, path, &[], "").await
    }

    /// A request with the key.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let mut all = vec![("x-api-key", self.key.as_str())];
        all.extend_from_slice(headers);
        self.bare(method, path, &all, body).await
    }

    /// A request with these headers and no others.
    pub(crate) async fn bare(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let stream = TcpStream::connect(&self.address).await.unwrap();
        exchange(stream, method, path, headers, body.into()).await
    }

    /// A request over the data directory's socket.
    pub(crate) async fn local(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Answer {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        exchange(stream, method, path, &[], body.into()).await
    }

    /// Runs a shell line and answers what exec answers.
    pub(crate) async fn shell(&self, id: &str, line: &str) -> Value {
        let body = serde_json::json!({ "cmd": "/bin/sh", "args": ["-c", line] });
        let answer = self.post(&format!("/v1/sandboxes/{id}/exec"), body.to_string()).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// Opens a WebSocket.
    pub(crate) async fn socket(&self, path: &str) -> Socket {
        self.try_socket(path, &[("x-api-key", &self.key)]).await.unwrap_or_else(|status| panic!("{path}: {status}"))
    }

    /// Opens a WebSocket with these headers; answers the status when it is refused.
    pub(crate) async fn try_socket(&self, path: &str, headers: &[(&str, &str)]) -> Result<Socket, u16> {
        let stream = TcpStream::connect(&self.address).await.unwrap();
        let mut request = format!("ws://{}{path}", self.address).into_client_request().unwrap();
        for (name, value) in headers {
            let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        match tokio_tungstenite::client_async(request, stream).await {
            Ok((socket, _)) => Ok(Socket(socket)),
            Err(Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{path}: {error}"),
        }
    }
}

pub(crate) async fn exchange<S>(stream: S, method: Method, path: &str, headers: &[(&str, &str)], body: Bytes) -> Answer
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", "atoll");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let all = async {
        let response = sender.send_request(request.body(Full::new(body)).unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: head.status, headers: head.headers, body }
    };
    let answer = tokio::time::timeout(DEADLINE, all).await.unwrap_or_else(|_| panic!("{path} is not answered"));
    connection.abort();
    answer
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Checks the whole error body and answers it.
    pub(crate) fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["error"]["code"], code, "{problem}");
        assert_eq!(problem["error"]["message"], problem["detail"], "{problem}");
        assert_eq!(problem["request_id"], self.header("x-request-id"), "{problem}");
        assert_eq!(problem["type"], format!("/docs#{code}"));
        problem
    }
}

/// A WebSocket's client.
pub(crate) struct Socket(WebSocketStream<TcpStream>);

/// What a WebSocket said.
#[derive(Debug)]
pub(crate) enum Heard {
    Frame(Value),
    Binary(Bytes),
    Closed(Option<(u16, String)>),
}

impl Socket {
    pub(crate) async fn send(&mut self, frame: Value) {
        self.0.send(Message::text(frame.to_string())).await.unwrap();
    }

    pub(crate) async fn send_raw(&mut self, message: Message) {
        self.0.send(message).await.unwrap();
    }

    /// Bytes on the connection, whatever they are.
    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        tokio::io::AsyncWriteExt::write_all(self.0.get_mut(), bytes).await.unwrap();
    }

    pub(crate) async fn hear(&mut self) -> Heard {
        let hear = async {
            loop {
                match self.0.next().await {
                    Some(Ok(Message::Text(text))) => break Heard::Frame(serde_json::from_str(&text).unwrap()),
                    Some(Ok(Message::Binary(bytes))) => break Heard::Binary(bytes),
                    Some(Ok(Message::Close(frame))) => {
                        let told = |frame: CloseFrame| (u16::from(frame.code), frame.reason.to_string());
                        break Heard::Closed(frame.map(told));
                    }
                    Some(Ok(_)) => {}
                    None | Some(Err(_)) => break Heard::Closed(None),
                }
            }
        };
        tokio::time::timeout(DEADLINE, hear).await.expect("a frame comes")
    }

    /// Waits until the other side asks whether anybody is there.
    pub(crate) async fn pinged(&mut self) {
        let ping = async {
            loop {
                match self.0.next().await {
                    Some(Ok(Message::Ping(_))) => break,
                    Some(Ok(_)) => {}
                    other => panic!("no ping: {other:?}"),
                }
            }
        };
        tokio::time::timeout(DEADLINE, ping).await.expect("a ping comes");
    }

    /// The next JSON frame.
    pub(crate) async fn frame(&mut self) -> Value {
        match self.hear().await {
            Heard::Frame(frame) => frame,
            other => panic!("not a frame: {other:?}"),
        }
    }

    /// All JSON frames until the socket closes.
    pub(crate) async fn rest(&mut self) -> Vec<Value> {
        let mut frames = Vec::new();
        while let Heard::Frame(frame) = self.hear().await {
            frames.push(frame);
        }
        frames
    }

    /// The code and reason with which the socket is closed.
    pub(crate) async fn closed(&mut self) -> (u16, String) {
        loop {
            if let Heard::Closed(told) = self.hear().await {
                return told.expect("closed with a reason");
            }
        }
    }
}

/// Waits until something holds.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let all = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, all).await.unwrap_or_else(|_| panic!("never: {what}"));
}
