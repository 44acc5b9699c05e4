//! What handlers take out of a request: JSON bodies, paths, queries.
//!
//! How it works: bodies are read up to a cap and a deadline, then parsed with the way to whatever is wrong in them; an empty body is `{}`.
//! A body that is too large is drained for a while before it is refused, because a connection that is closed with bytes unread is reset and the
//! client never sees why.
//!
//! Deliberately absent: checking content types of JSON; what is not JSON is refused for what it is.

use std::time::Duration;

use atoll_api::FieldError;
use atoll_control::{ControlError, Once};
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use http::HeaderValue;
use http::request::Parts;
use serde::de::DeserializeOwned;
use serde_path_to_error::{Path as JsonPath, Segment};
use tokio::time::{Instant, timeout, timeout_at};

use crate::error::WebError;

/// Largest JSON body.
pub(crate) const JSON_CAP: usize = 1024 * 1024;
/// How long a JSON body may take to come.
const BODY_TIME: Duration = Duration::from_secs(30);
/// How much of a refused body is read to its client's end, and for how long.
const DRAIN_BYTES: usize = 256 * 1024 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// A JSON body.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Json<T> {
    type Rejection = WebError;

    async fn from_request(request: Request, _: &S) -> Result<Self, WebError> {
        let body = read(request.into_body(), JSON_CAP).await?;
        parse(&body).map(Self)
    }
}

/// Parses a JSON document; an empty one is `{}`.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, WebError> {
    let bytes = if bytes.trim_ascii().is_empty() { b"{}" } else { bytes };
    if bytes.trim_ascii_start().starts_with(b"[") {
        // serde would take the items of a list for the fields in their order.
        let detail = "send a JSON object, not a list".to_owned();
        return Err(WebError::Field(FieldError {
            pointer: String::new(),
            code: "malformed".into(),
            detail,
            min: None,
            max: None,
        }));
    }
    let mut document = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut document).map_err(|error| {
        let pointer = pointer(error.path());
        let code = if error.inner().is_data() { "malformed" } else { "not_json" };
        WebError::Field(FieldError {
            pointer,
            code: code.into(),
            detail: without_value(&error.inner().to_string()),
            min: None,
            max: None,
        })
    })?;
    document.end().map_err(|error| {
        let detail = error.to_string();
        WebError::Field(FieldError { pointer: String::new(), code: "not_json".into(), detail, min: None, max: None })
    })?;
    Ok(value)
}

/// What a parser said, without the value that it quotes: it may be a secret that stands in the wrong place.
fn without_value(text: &str) -> String {
    // The last one is the parser's own: the value may hold the same words.
    match text.rsplit_once(", expected ") {
        Some((what, expected)) if what.starts_with("invalid ") || what.starts_with("unknown variant ") => {
            format!("expected {expected}")
        }
        _ => text.to_owned(),
    }
}

/// A path inside a document as a JSON pointer.
fn pointer(path: &JsonPath) -> String {
    let mut pointer = String::new();
    // The place of what is no JSON has no name.
    for segment in path.iter().filter(|segment| !matches!(segment, Segment::Unknown)) {
        pointer.push('/');
        match segment {
            Segment::Seq { index } => pointer.push_str(&index.to_string()),
            Segment::Map { key } => {
                let key: String = key.chars().take(64).collect();
                pointer.push_str(&key.replace('~', "~0").replace('/', "~1"));
            }
            Segment::Enum { variant } => pointer.push_str(variant),
            Segment::Unknown => {}
        }
    }
    pointer
}

/// Reads a body up to a cap.
pub(crate) async fn read(body: Body, cap: usize) -> Result<Bytes, WebError> {
    let until = Instant::now() + BODY_TIME;
    let mut stream = body.into_data_stream();
    let mut all = BytesMut::new();
    loop {
        match timeout_at(until, stream.next()).await {
            Err(_) => return Err(WebError::SlowBody),
            Ok(None) => return Ok(all.freeze()),
            Ok(Some(Err(_))) => {
                return Err(WebError::Malformed("the body broke off before its end".into()));
            }
            Ok(Some(Ok(piece))) if all.len() + piece.len() > cap => {
                drop(all);
                drain(stream).await;
                return Err(WebError::TooLarge { what: "the body", limit: cap as u64 });
            }
            Ok(Some(Ok(piece))) => all.extend_from_slice(&piece),
        }
    }
}

/// Reads and drops what is still to come, within bounds.
pub(crate) async fn drain<E>(stream: impl futures_util::Stream<Item = Result<Bytes, E>>) {
    let mut stream = std::pin::pin!(stream);
    let all = async {
        let mut seen = 0;
        while let Some(Ok(piece)) = stream.next().await {
            seen += piece.len();
            if seen > DRAIN_BYTES {
                break;
            }
        }
    };
    // Either way the request is over: what matters is that the client had time to read the answer.
    let _ = timeout(DRAIN_TIME, all).await;
}

/// The variable parts of a path.
#[derive(Debug)]
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = WebError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, WebError> {
        let path = axum::extract::Path::from_request_parts(parts, state).await;
        path.map(|axum::extract::Path(value)| Self(value)).map_err(|error| WebError::Malformed(error.body_text()))
    }
}

/// The client's key of a request that is to be carried out once.
#[derive(Debug)]
pub(crate) struct IdempotencyKey(Option<String>);

impl<S: Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = WebError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, WebError> {
        let Some(value) = parts.headers.get("idempotency-key") else { return Ok(Self(None)) };
        // What is no text is no key, which the control plane says.
        Ok(Self(Some(value.to_str().unwrap_or_default().to_owned())))
    }
}

impl IdempotencyKey {
    /// The key itself.
    pub(crate) fn text(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// With the request that it is for.
    pub(crate) fn of(&self, request: &impl serde::Serialize) -> Result<Option<Once>, WebError> {
        let Some(key) = &self.0 else { return Ok(None) };
        let request = serde_json::to_string(request).map_err(|error| ControlError::Internal(error.to_string()))?;
        Ok(Some(Once::new(key, request)?))
    }
}

/// Marks an answer that an earlier request has got already.
pub(crate) fn mark_replayed(response: &mut Response, replayed: bool) {
    if replayed {
        response.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
    }
}

/// The query of a URL.
#[derive(Debug)]
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = WebError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, WebError> {
        let query = axum::extract::Query::from_request_parts(parts, state).await;
        query.map(|axum::extract::Query(value)| Self(value)).map_err(|error| {
            let detail = error.body_text();
            let pointer = "?".to_owned();
            WebError::Field(FieldError { pointer, code: "malformed".into(), detail, min: None, max: None })
        })
    }
}
