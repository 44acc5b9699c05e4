//! WebSockets: opened with checks, bounded, closed with a reason.
//!
//! How it works: a request that comes from a page of another origin is refused before the upgrade, as is what the caller may not do. Each
//! socket has one writer and one reader, so that frames never mix and a stalled reader can still be told to stop. What is said
//! wrongly is answered by closing with a code and a reason. When Atoll stops, sockets are closed and awaited like requests.
//!
//! Deliberately absent: what the frames mean.

use std::time::Duration;

use atoll_api::StreamError;
use atoll_control::ControlError;
use axum::extract::FromRequestParts;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{HOST, ORIGIN};
use http::request::Parts;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::WebError;

/// Largest frame and message that a client may send.
const FRAME_CAP: usize = 256 * 1024;
/// Most bytes that wait for a slow client in this process.
const WRITE_CAP: usize = 1024 * 1024;
/// How long a client has for its first frame.
const FIRST: Duration = Duration::from_secs(10);
/// How long the other side has to close.
const CLOSING: Duration = Duration::from_secs(3);

/// What a socket needs of the listener that it came over.
#[derive(Debug, Clone)]
pub(crate) struct Serving {
    /// Awaited when Atoll stops.
    pub(crate) tasks: TaskTracker,
    /// Cancelled when Atoll stops.
    pub(crate) stop: CancellationToken,
}

/// A request that becomes a socket.
#[derive(Debug)]
pub(crate) struct Upgrade {
    upgrade: WebSocketUpgrade,
    serving: Serving,
}

impl<S: Send + Sync> FromRequestParts<S> for Upgrade {
    type Rejection = WebError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, WebError> {
        same_origin(parts)?;
        let serving = parts.extensions.get::<Serving>().cloned();
        let serving = serving.ok_or_else(|| ControlError::Internal("a listener without sockets".into()))?;
        let upgrade = WebSocketUpgrade::from_request_parts(parts, state)
            .await
            .map_err(|_| WebError::Malformed("this path is a WebSocket: ask for an upgrade".into()))?;
        let upgrade = upgrade.max_message_size(FRAME_CAP).max_frame_size(FRAME_CAP).max_write_buffer_size(WRITE_CAP);
        Ok(Self { upgrade, serving })
    }
}

/// A browser says whose page asks; only pages of this very host may.
fn same_origin(parts: &Parts) -> Result<(), WebError> {
    let Some(origin) = parts.headers.get(ORIGIN) else { return Ok(()) };
    let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
    match (origin, host) {
        (Some(origin), Some(host)) if origin.eq_ignore_ascii_case(host) => Ok(()),
        _ => Err(ControlError::Forbidden { who: "a page of another origin" }.into()),
    }
}

impl Upgrade {
    /// Upgrades, and runs a session until it ends or Atoll stops.
    pub(crate) fn run<F>(self, session: impl FnOnce(Reader, Writer) -> F + Send + 'static) -> Response
    where
        F: Future<Output = End> + Send,
    {
        let Serving { tasks, stop } = self.serving;
        let token = tasks.token();
        self.upgrade.on_upgrade(async move |socket: WebSocket| {
            let (sink, stream) = socket.split();
            let (writer, reader) = (Writer(sink), Reader { stream });
            // The session closes its own socket; when Atoll stops the client finds it closed and comes back. The stop comes first: it breaks
            // the session's way to its process, too.
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                _ = session(reader, writer) => {}
            }
            drop(token);
        })
    }
}

/// How a session ended, which tells the client by a close frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// All was said.
    Done,
    /// The client is gone.
    Lost,
    /// The client said what cannot be understood.
    Garbage(String),
    /// The client sent a message that is too large.
    TooLarge,
    /// The client said nothing for too long.
    Silent,
    /// Something failed; a frame told what.
    Failed(String),
}

/// The half that writes.
#[derive(Debug)]
pub(crate) struct Writer(SplitSink<WebSocket, Message>);

impl Writer {
    /// A client that takes nothing is waited for as long as it is there: its kernel answers for it, and where nothing answers any more
    /// ours ends the connection. It holds up nobody but itself.
    async fn send(&mut self, message: Message) -> Result<(), End> {
        self.0.send(message).await.map_err(|_| End::Lost)
    }

    /// Sends a JSON frame.
    pub(crate) async fn json(&mut self, frame: &(impl Serialize + Sync)) -> Result<(), End> {
        let text = serde_json::to_string(frame).map_err(|error| End::Failed(error.to_string()))?;
        self.send(Message::text(text)).await
    }

    /// Sends bytes.
    pub(crate) async fn binary(&mut self, bytes: Bytes) -> Result<(), End> {
        self.send(Message::Binary(bytes)).await
    }

    /// Asks whether the client is there.
    pub(crate) async fn ping(&mut self) -> Result<(), End> {
        self.send(Message::Ping(Bytes::new())).await
    }

    /// Closes with the reason, and waits a little for the other side to close.
    pub(crate) async fn close(mut self, mut reader: Reader, end: End) -> End {
        let (code, reason) = match &end {
            End::Lost => return end,
            End::Done => (close_code::NORMAL, ""),
            End::Garbage(what) => (close_code::INVALID, what.as_str()),
            End::TooLarge => (close_code::SIZE, "a message has at most 256 KiB"),
            End::Silent => (close_code::POLICY, "nothing came for too long"),
            End::Failed(what) => (close_code::ERROR, what.as_str()),
        };
        let reason: String = reason.chars().take(30).collect();
        let close = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
        let all = async {
            if self.0.send(close).await.is_ok() {
                while let Some(Ok(_)) = reader.stream.next().await {}
            }
        };
        // A client that does not close is left.
        let _ = timeout(CLOSING, all).await;
        end
    }
}

/// The half that reads.
#[derive(Debug)]
pub(crate) struct Reader {
    stream: SplitStream<WebSocket>,
}

/// What a client said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// A text frame.
    Text(String),
    /// A binary frame.
    Binary(Bytes),
}

impl Reader {
    /// The next frame that means something. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Said, End> {
        loop {
            if let Some(said) = understand(self.stream.next().await)? {
                return Ok(said);
            }
        }
    }

    /// The first frame, which may not be long in coming.
    pub(crate) async fn first(&mut self) -> Result<Said, End> {
        timeout(FIRST, self.next()).await.unwrap_or(Err(End::Silent))
    }
}

fn understand(message: Option<Result<Message, axum::Error>>) -> Result<Option<Said>, End> {
    match message {
        None | Some(Ok(Message::Close(_))) => Err(End::Lost),
        Some(Ok(Message::Text(text))) => Ok(Some(Said::Text(text.to_string()))),
        Some(Ok(Message::Binary(bytes))) => Ok(Some(Said::Binary(bytes))),
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(None),
        Some(Err(error)) => Err(of_wire(error)),
    }
}

fn of_wire(error: axum::Error) -> End {
    use tokio_tungstenite::tungstenite::Error;
    match error.into_inner().downcast::<Error>().map(|error| *error) {
        Ok(Error::Capacity(_)) => End::TooLarge,
        Ok(Error::Utf8(_)) => End::Garbage("text that is not UTF-8".into()),
        Ok(Error::Protocol(tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake)) => {
            End::Lost
        }
        Ok(Error::Protocol(_)) => End::Garbage("not a WebSocket frame".into()),
        _ => End::Lost,
    }
}

/// Reads a text frame as JSON.
pub(crate) fn json<T: DeserializeOwned>(text: &str) -> Result<T, End> {
    serde_json::from_str(text).map_err(|_| End::Garbage("not a frame of this stream".into()))
}

/// An error as it is told inside a stream.
pub(crate) fn told(error: &WebError) -> StreamError {
    let problem = error.problem("", "");
    if error.status().is_server_error() {
        tracing::error!(%error, "a stream failed");
    }
    StreamError { data: problem.detail, code: Some(problem.code), fatal: true }
}
