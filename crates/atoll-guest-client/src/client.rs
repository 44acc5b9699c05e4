//! The client: one method for each thing that the agent does.

use std::{sync::Arc, time::Duration};

use atoll_proto::{filesystem as fs, process as wire};
use base64::{Engine, engine::general_purpose::STANDARD};
use buffa::Message;
use bytes::Bytes;
use http::{Method, Request, header, request};
use http_body_util::{BodyExt, Full};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;

use crate::{
    AccessToken, Dial, Entry, FileBody, FileReader, GuestError, Health, InitRequest, Limits, Metrics, ProcessInfo,
    ProcessStream, PtySize, ReadRange, Selector, StartRequest, WrittenFile,
    connect::{self, Envelopes},
    http1::{Exchange, RequestBody, exchange},
    stream::Kind,
};

/// Talks to the agent of one sandbox. Cheap to clone.
#[derive(Clone)]
pub struct GuestClient {
    dial: Arc<dyn Dial>,
    token: Option<AccessToken>,
    limits: Limits,
}

impl std::fmt::Debug for GuestClient {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("GuestClient").finish_non_exhaustive()
    }
}

impl GuestClient {
    /// A client with the default [`Limits`].
    pub fn new(dial: Arc<dyn Dial>, token: Option<AccessToken>) -> Self {
        Self { dial, token, limits: Limits::default() }
    }

    /// The same client with other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The same client with another token.
    #[must_use]
    pub fn with_token(mut self, token: Option<AccessToken>) -> Self {
        self.token = token;
        self
    }

    /// Asks whether the agent is there. Needs no token.
    pub async fn health(&self) -> Result<Health, GuestError> {
        self.get_json("/health").await
    }

    /// Hands the agent its identity, clock, entropy and token. The first call
    /// needs no token; a later one needs the current one.
    pub async fn init(&self, init: &InitRequest) -> Result<(), GuestError> {
        let body = serde_json::to_vec(init)
            .map_err(|error| GuestError::protocol(format!("/init cannot be encoded: {error}")))?;
        let request = self.request(Method::POST, "/init", None).header(header::CONTENT_TYPE, "application/json");
        let mut exchange = self.send(request, full(body)).await?;
        connect::expect_ok(&mut exchange, &self.limits).await
    }

    /// What the guest says it uses.
    pub async fn metrics(&self) -> Result<Metrics, GuestError> {
        self.get_json("/metrics").await
    }

    /// Starts a program and follows it.
    pub async fn start(&self, start: &StartRequest) -> Result<ProcessStream, GuestError> {
        let mut request = self.stream_request("/process.Process/Start", start.user.as_deref());
        if let Some(timeout) = start.timeout {
            let milliseconds = timeout.as_millis().clamp(1, 9_999_999_999);
            request = request.header("connect-timeout-ms", milliseconds.to_string());
        }
        let envelopes = self.open(request, &start.to_wire()).await?;
        Ok(ProcessStream::new(envelopes, self.limits.clone(), Kind::Start, start.timeout))
    }

    /// Follows a process that runs already, from byte `offset` of its output on
    /// (0: from the oldest byte that the agent still has, told by a gap).
    pub async fn connect(&self, selector: &Selector, offset: u64) -> Result<ProcessStream, GuestError> {
        let message =
            wire::ConnectRequest { process: selector.to_wire().into(), offset: Some(offset), ..Default::default() };
        let request = self.stream_request("/process.Process/Connect", None);
        let envelopes = self.open(request, &message).await?;
        Ok(ProcessStream::new(envelopes, self.limits.clone(), Kind::Connect, None))
    }

    /// The processes that run.
    pub async fn list(&self) -> Result<Vec<ProcessInfo>, GuestError> {
        let answer: wire::ListResponse =
            self.call("/process.Process/List", None, &wire::ListRequest::default()).await?;
        Ok(answer.processes.into_iter().map(ProcessInfo::from_wire).collect())
    }

    /// Sends a signal (its Linux number) to a process's whole group.
    pub async fn signal(&self, selector: &Selector, signal: i32) -> Result<(), GuestError> {
        let message =
            wire::SendSignalRequest { process: selector.to_wire().into(), signal: signal.into(), ..Default::default() };
        let _: wire::SendSignalResponse = self.call("/process.Process/SendSignal", None, &message).await?;
        Ok(())
    }

    /// Feeds standard input, or the terminal of a process that has one.
    pub async fn send_input(&self, selector: &Selector, input: Bytes, pty: bool) -> Result<(), GuestError> {
        use wire::__buffa::oneof::process_input::Input;
        let input = input.to_vec();
        let input = if pty { Input::Pty(input) } else { Input::Stdin(input) };
        let message = wire::SendInputRequest {
            process: selector.to_wire().into(),
            input: wire::ProcessInput { input: Some(input), ..Default::default() }.into(),
            ..Default::default()
        };
        let _: wire::SendInputResponse = self.call("/process.Process/SendInput", None, &message).await?;
        Ok(())
    }

    /// Closes standard input.
    pub async fn close_stdin(&self, selector: &Selector) -> Result<(), GuestError> {
        let message = wire::CloseStdinRequest { process: selector.to_wire().into(), ..Default::default() };
        let _: wire::CloseStdinResponse = self.call("/process.Process/CloseStdin", None, &message).await?;
        Ok(())
    }

    /// Changes the size of a terminal.
    pub async fn resize(&self, selector: &Selector, size: PtySize) -> Result<(), GuestError> {
        let message = wire::UpdateRequest {
            process: selector.to_wire().into(),
            pty: size.to_wire().into(),
            ..Default::default()
        };
        let _: wire::UpdateResponse = self.call("/process.Process/Update", None, &message).await?;
        Ok(())
    }

    /// Reads a file, or a part of it, as `user` (`None`: the agent's default).
    pub async fn read_file(
        &self,
        path: &str,
        user: Option<&str>,
        range: Option<ReadRange>,
    ) -> Result<FileReader, GuestError> {
        let mut request = self.request(Method::GET, &files_target(path, user), None);
        if let Some(range) = range {
            let last = range.last.map(|last| last.to_string()).unwrap_or_default();
            request = request.header(header::RANGE, format!("bytes={}-{last}", range.start));
        }
        let mut exchange = self.send(request, full(Vec::new())).await?;
        connect::expect_ok(&mut exchange, &self.limits).await?;
        Ok(FileReader::new(exchange, self.limits.clone()))
    }

    /// Writes a file as `user` (`None`: the agent's default), making its parents.
    pub async fn write_file(&self, path: &str, user: Option<&str>, body: FileBody) -> Result<WrittenFile, GuestError> {
        let request = self
            .request(Method::POST, &files_target(path, user), None)
            .header(header::CONTENT_TYPE, "application/octet-stream");
        let request = finish(request, body.0)?;
        let mut exchange = exchange(&*self.dial, &self.limits, request, self.limits.idle).await?;
        connect::expect_ok(&mut exchange, &self.limits).await?;
        let body = exchange.read_body(&self.limits, self.limits.body_bytes).await?;
        let written: Vec<WrittenFile> = from_json(&body)?;
        written.into_iter().next().ok_or_else(|| GuestError::protocol("an answer to a write that names no file"))
    }

    /// What is at a path; of a symbolic link, what it leads to.
    pub async fn stat(&self, path: &str, user: Option<&str>) -> Result<Entry, GuestError> {
        let message = fs::StatRequest { path: path.to_owned(), ..Default::default() };
        let answer: fs::StatResponse = self.call("/filesystem.Filesystem/Stat", user, &message).await?;
        entry(answer.entry.into_option())
    }

    /// What is in a directory, down to `depth` levels.
    pub async fn list_dir(&self, path: &str, depth: u32, user: Option<&str>) -> Result<Vec<Entry>, GuestError> {
        let message = fs::ListDirRequest { path: path.to_owned(), depth, ..Default::default() };
        let answer: fs::ListDirResponse = self.call("/filesystem.Filesystem/ListDir", user, &message).await?;
        Ok(answer.entries.into_iter().map(Entry::from_wire).collect())
    }

    /// Makes a directory and its parents. `AlreadyExists` when it is there.
    pub async fn make_dir(&self, path: &str, user: Option<&str>) -> Result<Entry, GuestError> {
        let message = fs::MakeDirRequest { path: path.to_owned(), ..Default::default() };
        let answer: fs::MakeDirResponse = self.call("/filesystem.Filesystem/MakeDir", user, &message).await?;
        entry(answer.entry.into_option())
    }

    /// Moves a file or directory.
    pub async fn mv(&self, source: &str, destination: &str, user: Option<&str>) -> Result<Entry, GuestError> {
        let message =
            fs::MoveRequest { source: source.to_owned(), destination: destination.to_owned(), ..Default::default() };
        let answer: fs::MoveResponse = self.call("/filesystem.Filesystem/Move", user, &message).await?;
        entry(answer.entry.into_option())
    }

    /// Removes a file or a whole directory. What is not there is no error.
    pub async fn remove(&self, path: &str, user: Option<&str>) -> Result<(), GuestError> {
        let message = fs::RemoveRequest { path: path.to_owned(), ..Default::default() };
        let _: fs::RemoveResponse = self.call("/filesystem.Filesystem/Remove", user, &message).await?;
        Ok(())
    }

    async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, GuestError> {
        let request = self.request(Method::GET, path, None);
        let mut exchange = self.send(request, full(Vec::new())).await?;
        connect::expect_ok(&mut exchange, &self.limits).await?;
        let body = exchange.read_body(&self.limits, self.limits.body_bytes).await?;
        from_json(&body)
    }

    async fn call<M: Message>(&self, path: &str, user: Option<&str>, message: &impl Message) -> Result<M, GuestError> {
        let request = self
            .request(Method::POST, path, user)
            .header("connect-protocol-version", "1")
            .header(header::CONTENT_TYPE, "application/proto");
        let body = full(connect::encode(message)?);
        connect::unary(self.send(request, body).await?, &self.limits).await
    }

    fn stream_request(&self, path: &str, user: Option<&str>) -> request::Builder {
        let keepalive = self.limits.keepalive.max(Duration::from_secs(1));
        self.request(Method::POST, path, user)
            .header("connect-protocol-version", "1")
            .header(header::CONTENT_TYPE, "application/connect+proto")
            .header("keepalive-ping-interval", keepalive.as_secs().to_string())
    }

    async fn open(&self, request: request::Builder, message: &impl Message) -> Result<Envelopes, GuestError> {
        let exchange = self.send(request, full(connect::envelope(message)?)).await?;
        Envelopes::new(exchange, &self.limits).await
    }

    async fn send(&self, request: request::Builder, body: RequestBody) -> Result<Exchange, GuestError> {
        let request = finish(request, body)?;
        exchange(&*self.dial, &self.limits, request, self.limits.head).await
    }

    fn request(&self, method: Method, target: &str, user: Option<&str>) -> request::Builder {
        let mut request = Request::builder().method(method).uri(target).header(header::HOST, "guest");
        if let Some(token) = &self.token {
            request = request.header("x-access-token", token.expose());
        }
        if let Some(user) = user {
            let basic = format!("Basic {}", STANDARD.encode(format!("{user}:")));
            request = request.header(header::AUTHORIZATION, basic);
        }
        request
    }
}

fn finish(request: request::Builder, body: RequestBody) -> Result<Request<RequestBody>, GuestError> {
    request.body(body).map_err(|_| GuestError::protocol("a token, user or path that fits in no HTTP request"))
}

fn full(bytes: impl Into<Bytes>) -> RequestBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

fn from_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, GuestError> {
    serde_json::from_slice(body).map_err(|_| GuestError::protocol("an answer that is not the JSON it should be"))
}

fn entry(entry: Option<fs::EntryInfo>) -> Result<Entry, GuestError> {
    entry.map(Entry::from_wire).ok_or_else(|| GuestError::protocol("an answer without its entry"))
}

fn files_target(path: &str, user: Option<&str>) -> String {
    let path = utf8_percent_encode(path, NON_ALPHANUMERIC);
    match user {
        None => format!("/files?path={path}"),
        Some(user) => format!("/files?path={path}&username={}", utf8_percent_encode(user, NON_ALPHANUMERIC)),
    }
}
