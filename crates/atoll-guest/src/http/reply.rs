//! Answers: one body type for all routes, JSON, and errors.
//!
//! How it works: every route answers a [`Reply`] with a boxed body; an error is `{code, message}` under its own status.
//!
//! Deliberately absent: Connect's own errors; its library writes those.

use std::io;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body::Body as HttpBody;
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use serde::Serialize;

use crate::error::{AgentError, REASON};

/// An answer.
pub(crate) type Reply = Response<Body>;

/// The body of an answer, whatever it is made of.
pub(crate) struct Body(UnsyncBoxBody<Bytes, io::Error>);

impl Body {
    /// Any body.
    pub(crate) fn new<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Self(body.map_err(io::Error::other).boxed_unsync())
    }

    /// Bytes in memory.
    pub(crate) fn full(bytes: impl Into<Bytes>) -> Self {
        Self::new(Full::new(bytes.into()))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, io::Error>>> {
        std::pin::Pin::new(&mut self.0).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.0.size_hint()
    }
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Reply {
    let body = serde_json::to_vec(value).unwrap_or_default();
    let mut reply = Response::new(Body::full(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    reply
}

/// An answer without a body.
pub(crate) fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(Body::full(Bytes::new()));
    *reply.status_mut() = status;
    reply
}

/// An error of a plain route: `{code, message}` with the HTTP status as code.
pub(crate) fn error(error: &AgentError) -> Reply {
    #[derive(Serialize)]
    struct Wire {
        code: u16,
        message: String,
    }
    let status = error.status();
    let mut reply = json(status, &Wire { code: status.as_u16(), message: error.to_string() });
    if let Some(reason) = error.reason() {
        reply.headers_mut().insert(REASON, header::HeaderValue::from_static(reason));
    }
    reply
}
