//! WebSockets of the API.
//!
//! How it works: the upgrade goes through the same HTTP client as everything else, so that keys, sockets and TLS are the same; a refusal
//! comes back as the problem that the server sent. A ping every 20 s finds out that the other side is gone: without any sign of
//! it for 45 s the connection counts as lost.
//!
//! Deliberately absent: what is said ([`crate::exec_stream`], [`crate::terminal`]).

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
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
        Ok(Socket { stream, server: self.name().to_owned(), ping, heard: Instant::now() })
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
        match timeout(SEND_LIMIT, self.stream.send(message)).await {
            Ok(sent) => sent.map_err(|error| self.lost(error)),
            Err(_) => Err(ClientError::NoAnswer { server: self.server.clone() }),
        }
    }

    /// The next frame. Dropping the future loses nothing.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> Result<Incoming<T>, ClientError> {
        loop {
            let message = tokio::select! {
                message = self.stream.next() => message,
                _ = self.ping.tick() => {
                    if self.heard.elapsed() > SILENCE {
                        return Err(ClientError::NoAnswer { server: self.server.clone() });
                    }
                    self.message(Message::Ping(Bytes::new())).await?;
                    continue;
                }
            };
            self.heard = Instant::now();
            match message {
                Some(Ok(Message::Text(text))) => {
                    let frame = serde_json::from_str(text.as_str());
                    let foreign = |_| ClientError::Foreign { server: self.server.clone(), status: 101 };
                    return frame.map(Incoming::Frame).map_err(foreign);
                }
                Some(Ok(Message::Binary(bytes))) => return Ok(Incoming::Bytes(bytes)),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(Some(frame)))) if !frame.reason.is_empty() => {
                    let reason = frame.reason.chars().filter(|c| !c.is_control()).collect();
                    return Err(ClientError::Closed { server: self.server.clone(), reason });
                }
                Some(Ok(Message::Close(_))) | None => return Ok(Incoming::Closed),
                Some(Err(Error::ConnectionClosed | Error::AlreadyClosed)) => return Ok(Incoming::Closed),
                Some(Err(error)) => return Err(self.lost(error)),
            }
        }
    }

    /// Says goodbye; a server that does not answer in time is left.
    pub(crate) async fn close(&mut self) {
        let _ = timeout(CLOSE_LIMIT, self.stream.close(None)).await;
    }

    /// The stream ended without saying why.
    pub(crate) fn cut(&self) -> ClientError {
        self.lost(Error::ConnectionClosed)
    }

    fn lost(&self, error: Error) -> ClientError {
        ClientError::Lost { server: self.server.clone(), source: Box::new(error) }
    }
}
