//! WebSockets of the API.
//!
//! How it works: the upgrade goes through the same HTTP client as everything else, so that keys, sockets and TLS are the same; a refusal
//! comes back as the problem that the server sent. A ping every 20 s finds out that the other side is gone: without any sign of
//! it for 45 s the connection counts as lost; the time in which nobody listened here (a pager that is full) does not count. What is queued goes out while the other side is listened to, so that two sides that both have
//! much to say do not wait for each other.
//!
//! Deliberately absent: what is said ([`crate::exec_stream`], [`crate::terminal`]).

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use reqwest::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use reqwest::{Method, StatusCode, Upgraded, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::client::QUICK;
use crate::{Client, ClientError};

const PING_EVERY: Duration = Duration::from_secs(20);
const SILENCE: Duration = Duration::from_secs(45);
const SEND_LIMIT: Duration = Duration::from_secs(30);
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// Most bytes that wait for the wire before there is no room for more.
const OUTBOX: usize = 256 * 1024;
/// Largest message that is taken.
const MESSAGE_CAP: usize = 16 << 20;

/// What came.
#[derive(Debug)]
pub(crate) enum Incoming<T> {
    /// A JSON frame.
    Frame(T),
    /// A binary frame.
    Bytes(Bytes),
    /// The other side closed.
    Closed,
}

/// An open WebSocket.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: WebSocketStream<Upgraded>,
    server: String,
    ping: Interval,
    heard: Instant,
    /// Since when nobody has listened here.
    away: Option<Instant>,
    outbox: Outbox,
}

/// Messages on their way out.
#[derive(Debug, Default)]
struct Outbox {
    waiting: VecDeque<Message>,
    bytes: usize,
}

impl Outbox {
    fn push(&mut self, message: Message) {
        self.bytes += message.len();
        self.waiting.push_back(message);
    }

    fn has_room(&self) -> bool {
        self.bytes < OUTBOX
    }

    /// Ready when all is on the wire.
    fn poll(&mut self, stream: &mut WebSocketStream<Upgraded>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        while !self.waiting.is_empty() {
            ready!(stream.poll_ready_unpin(cx))?;
            let Some(message) = self.waiting.pop_front() else { break };
            self.bytes -= message.len();
            stream.start_send_unpin(message)?;
        }
        stream.poll_flush_unpin(cx)
    }
}

impl Client {
    /// Opens a WebSocket.
    pub(crate) async fn socket(&self, url: Url) -> Result<Socket, ClientError> {
        let key = generate_key();
        let request = self
            .at(Method::GET, url, QUICK)
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_KEY, &key);
        let response = self.send(request).await?;
        let accept = response.headers().get(SEC_WEBSOCKET_ACCEPT).map(|value| value.as_bytes().to_vec());
        let status = response.status();
        if status != StatusCode::SWITCHING_PROTOCOLS || accept != Some(derive_accept_key(key.as_bytes()).into_bytes()) {
            return Err(ClientError::Foreign { server: self.name().to_owned(), status: status.as_u16() });
        }
        let upgraded = response.upgrade().await.map_err(|error| self.why(error))?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_CAP))
            .max_frame_size(Some(MESSAGE_CAP))
            .max_write_buffer_size(MESSAGE_CAP);
        let stream = WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(config)).await;
        let mut ping = interval(PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (server, heard) = (self.name().to_owned(), Instant::now());
        Ok(Socket { stream, server, ping, heard, away: None, outbox: Outbox::default() })
    }
}

impl Socket {
    /// Sends a JSON frame.
    pub(crate) async fn send(&mut self, frame: &impl Serialize) -> Result<(), ClientError> {
        let text = serde_json::to_string(frame).map_err(|error| ClientError::Setup(Box::new(error)))?;
        self.message(Message::text(text)).await
    }

    /// Sends a binary frame.
    pub(crate) async fn send_bytes(&mut self, bytes: Bytes) -> Result<(), ClientError> {
        self.message(Message::Binary(bytes)).await
    }

    async fn message(&mut self, message: Message) -> Result<(), ClientError> {
        self.outbox.push(message);
        let (outbox, stream) = (&mut self.outbox, &mut self.stream);
        match timeout(SEND_LIMIT, poll_fn(|cx| outbox.poll(stream, cx))).await {
            Ok(sent) => sent.map_err(|error| self.lost(error)),
            Err(_) => Err(ClientError::NoAnswer { server: self.server.clone() }),
        }
    }

    /// Whether more may be queued.
    pub(crate) fn has_room(&self) -> bool {
        self.outbox.has_room()
    }

    /// Queues a JSON frame, which goes out with the next call; waits while there is no room.
    pub(crate) async fn queue(&mut self, frame: &impl Serialize) -> Result<(), ClientError> {
        let text = serde_json::to_string(frame).map_err(|error| ClientError::Setup(Box::new(error)))?;
        if !self.has_room() {
            return self.message(Message::text(text)).await;
        }
        self.outbox.push(Message::text(text));
        Ok(())
    }

    /// What came next, while what is queued goes out; nothing as soon as there is room, for who waits for that.
    async fn exchange(&mut self, or_room: bool) -> Option<Option<Result<Message, Error>>> {
        let (outbox, stream) = (&mut self.outbox, &mut self.stream);
        poll_fn(|cx| {
            let sent = outbox.poll(stream, cx);
            match (stream.poll_next_unpin(cx), sent) {
                (Poll::Ready(heard), _) => Poll::Ready(Some(heard)),
                // A server that takes nothing any more may have said why.
                (Poll::Pending, Poll::Ready(Err(error))) => Poll::Ready(Some(Some(Err(error)))),
                (Poll::Pending, _) if or_room && outbox.has_room() => Poll::Ready(None),
                (Poll::Pending, _) => Poll::Pending,
            }
        })
        .await
    }

    /// The next frame. Dropping the future loses nothing.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<Incoming<T>, ClientError> {
        self.back();
        let came = self.listen().await;
        self.away = Some(Instant::now());
        came
    }

    /// The time in which nobody listened here says nothing about the other side.
    fn back(&mut self) {
        if let Some(away) = self.away.take() {
            self.heard += away.elapsed();
        }
    }

    async fn listen<T: DeserializeOwned>(&mut self) -> Result<Incoming<T>, ClientError> {
        loop {
            if let Some(incoming) = self.hear(false).await? {
                return Ok(incoming);
            }
        }
    }

    /// The next frame, or nothing as soon as more may be queued. However long that takes: a server that gives signs of life is not
    /// gone, and what it passes on to may read when it likes. Dropping the future loses nothing.
    pub(crate) async fn next_or_room<T: DeserializeOwned>(&mut self) -> Result<Option<Incoming<T>>, ClientError> {
        self.back();
        let came = self.hear(true).await;
        self.away = Some(Instant::now());
        came
    }

    async fn hear<T: DeserializeOwned>(&mut self, or_room: bool) -> Result<Option<Incoming<T>>, ClientError> {
        loop {
            if or_room && self.has_room() {
                return Ok(None);
            }
            if self.ping.tick().now_or_never().is_some() {
                if self.heard.elapsed() > SILENCE {
                    return Err(ClientError::NoAnswer { server: self.server.clone() });
                }
                self.outbox.push(Message::Ping(Bytes::new()));
            }
            let Ok(Some(message)) = timeout(PING_EVERY, self.exchange(or_room)).await else { continue };
            self.heard = Instant::now();
            match message {
                Some(Ok(Message::Text(text))) => {
                    let frame = serde_json::from_str(text.as_str());
                    let foreign = |_| ClientError::Foreign { server: self.server.clone(), status: 101 };
                    return frame.map(|frame| Some(Incoming::Frame(frame))).map_err(foreign);
                }
                Some(Ok(Message::Binary(bytes))) => return Ok(Some(Incoming::Bytes(bytes))),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(Some(frame)))) if !frame.reason.is_empty() => {
                    let reason = frame.reason.chars().filter(|c| !c.is_control()).collect();
                    return Err(ClientError::Closed { server: self.server.clone(), reason });
                }
                Some(Ok(Message::Close(_))) | None => return Ok(Some(Incoming::Closed)),
                Some(Err(Error::ConnectionClosed | Error::AlreadyClosed)) => return Ok(Some(Incoming::Closed)),
                Some(Err(error)) => return Err(self.lost(error)),
            }
        }
    }

    /// Says goodbye; a server that does not answer in time is left.
    pub(crate) async fn close(&mut self) {
        let _ = timeout(CLOSE_LIMIT, self.stream.close(None)).await;
    }

    /// Neither side goes on before the other.
    pub(crate) fn stuck(&self) -> ClientError {
        ClientError::NoAnswer { server: self.server.clone() }
    }

    /// The stream ended without saying why.
    pub(crate) fn cut(&self) -> ClientError {
        self.lost(Error::ConnectionClosed)
    }

    fn lost(&self, error: Error) -> ClientError {
        ClientError::Lost { server: self.server.clone(), source: Box::new(error) }
    }
}
