//! The client of one sandbox's agent: what every call has in common.
//!
//! How it works: each call opens a connection of its own through [`Dial`], carries the access
//! token and, where one is named, the guest user, and reads the answer within [`Limits`]. The
//! calls themselves lie beside this file, one file for each part of the wire.
//!
//! Deliberately absent: retries and pooled connections. Whether a call may be repeated is
//! known to its caller, and a connection must not outlive a pause of its guest.

mod files;
mod filesystem;
mod process;
mod system;

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use buffa::Message;
use bytes::Bytes;
use http::{Method, Request, header, request};
use http_body_util::{BodyExt, Full};
use serde::de::DeserializeOwned;

use crate::{
    AccessToken, Dial, GuestError, Limits,
    connect::{self, Envelopes},
    http1::{Exchange, RequestBody, exchange},
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

    /// A plain `GET` whose answer is JSON.
    async fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, GuestError> {
        let request = self.request(Method::GET, path, None);
        self.json_of(self.send(request, full(Vec::new())).await?).await
    }

    /// A plain `POST` of JSON. The answer may be empty or JSON.
    async fn post_json(&self, path: &str, body: &impl serde::Serialize) -> Result<Exchange, GuestError> {
        let body =
            serde_json::to_vec(body).map_err(|_| GuestError::protocol(format!("a {path} that cannot be encoded")))?;
        let request = self.request(Method::POST, path, None).header(header::CONTENT_TYPE, "application/json");
        let mut exchange = self.send(request, full(body)).await?;
        connect::expect_ok(&mut exchange, &self.limits).await?;
        Ok(exchange)
    }

    /// Reads a JSON answer to its end.
    async fn json_of<T: DeserializeOwned>(&self, mut exchange: Exchange) -> Result<T, GuestError> {
        connect::expect_ok(&mut exchange, &self.limits).await?;
        connect::expect_type(&exchange, "application/json")?;
        let body = exchange.read_body(&self.limits, self.limits.body_bytes).await?;
        serde_json::from_slice(&body).map_err(|_| GuestError::protocol("an answer that is not the JSON it should be"))
    }

    /// A Connect call with one message either way.
    async fn call<M: Message>(&self, path: &str, user: Option<&str>, message: &impl Message) -> Result<M, GuestError> {
        let request = self
            .request(Method::POST, path, user)
            .header("connect-protocol-version", "1")
            .header(header::CONTENT_TYPE, "application/proto");
        let body = full(connect::encode(message)?);
        connect::unary(self.send(request, body).await?, &self.limits).await
    }

    /// The head of a Connect call that streams.
    fn stream_request(&self, path: &str, user: Option<&str>) -> request::Builder {
        let keepalive = self.limits.keepalive.max(Duration::from_secs(1));
        self.request(Method::POST, path, user)
            .header("connect-protocol-version", "1")
            .header(header::CONTENT_TYPE, "application/connect+proto")
            .header("keepalive-ping-interval", keepalive.as_secs().to_string())
    }

    /// A Connect call that is answered with a stream.
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
