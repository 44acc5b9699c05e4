//! One HTTP/1.1 exchange over a fresh connection, with caps and deadlines.
//!
//! How it works: hyper reads the head within the caps of [`Limits`]; the connection's driver is a task that lives as
//! long as its [`Exchange`].
//!
//! Deliberately absent: redirects, compression, upgrades, and a second request on the same connection.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use crate::{Dial, GuestError, Limits, Phase};

/// A request's body.
pub(crate) type RequestBody = UnsyncBoxBody<Bytes, io::Error>;

/// An answer whose body is still to be read, and the connection that it comes on.
pub(crate) struct Exchange {
    pub(crate) response: Response<Incoming>,
    _driver: AbortOnDropHandle<()>,
}

/// How long a request may take until the head of its answer.
#[derive(Clone, Copy)]
pub(crate) struct Deadlines {
    /// Without progress of its body, and after it.
    pub(crate) silence: Duration,
    /// With progress. `None`: as long as the body moves.
    pub(crate) whole: Option<Duration>,
}

/// Sends one request over a fresh connection and waits for the head of the answer.
///
/// A body that makes progress may take as long as it needs; without progress the request is
/// given up after `silence`.
pub(crate) async fn exchange(
    dial: &dyn Dial,
    limits: &Limits,
    request: Request<RequestBody>,
    silence: Duration,
) -> Result<Exchange, GuestError> {
    let deadlines = Deadlines { silence, whole: None };
    exchange_within(dial, limits, request, deadlines).await
}

/// As [`exchange`], for a body that may move without end.
pub(crate) async fn exchange_within(
    dial: &dyn Dial,
    limits: &Limits,
    request: Request<RequestBody>,
    deadlines: Deadlines,
) -> Result<Exchange, GuestError> {
    let stream = timeout(limits.dial, dial.dial())
        .await
        .map_err(|_| GuestError::Timeout { phase: Phase::Dial, after: limits.dial })?
        .map_err(GuestError::Dial)?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(limits.head_bytes.max(8192))
        .max_headers(limits.head_fields)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| from_hyper(&error, limits))?;
    let driver = AbortOnDropHandle::new(tokio::spawn(async move {
        // The exchange's own future tells what went wrong.
        let _ = connection.await;
    }));
    let progress = Arc::new(Progress::default());
    let request = request.map(|body| Tracked { body, progress: Arc::clone(&progress) });
    let answer = sender.send_request(request);
    let response = watch(answer, &progress, deadlines)
        .await?
        .map_err(|error| progress.failure().unwrap_or_else(|| from_hyper(&error, limits)))?;
    refuse_encoding(&response)?;
    Ok(Exchange { response, _driver: driver })
}

/// Waits for `future` as long as the request's body moves at least once in `silence`.
async fn watch<F: Future>(future: F, progress: &Progress, deadlines: Deadlines) -> Result<F::Output, GuestError> {
    let late = |after| GuestError::Timeout { phase: Phase::Head, after };
    let patient = async {
        let mut future = std::pin::pin!(future);
        loop {
            let before = progress.moves.load(Ordering::Relaxed);
            match timeout(deadlines.silence, &mut future).await {
                Ok(output) => return Ok(output),
                Err(_) if progress.moves.load(Ordering::Relaxed) != before => {}
                Err(_) => return Err(late(deadlines.silence)),
            }
        }
    };
    match deadlines.whole {
        None => patient.await,
        Some(whole) => timeout(whole, patient).await.unwrap_or_else(|_| Err(late(whole))),
    }
}

fn refuse_encoding(response: &Response<Incoming>) -> Result<(), GuestError> {
    match response.headers().get(header::CONTENT_ENCODING) {
        Some(value) if value != "identity" => Err(GuestError::protocol("an encoded answer, though none was asked for")),
        _ => Ok(()),
    }
}

impl Exchange {
    /// Reads the whole body, at most `limit` bytes of it.
    pub(crate) async fn read_body(&mut self, limits: &Limits, limit: usize) -> Result<Bytes, GuestError> {
        let until = Instant::now() + limits.body;
        let mut body = bytes::BytesMut::new();
        loop {
            let frame = timeout_at(until, self.response.body_mut().frame())
                .await
                .map_err(|_| GuestError::Timeout { phase: Phase::Body, after: limits.body })?;
            match frame {
                None => return Ok(body.freeze()),
                Some(Err(error)) => return Err(from_hyper(&error, limits)),
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else {
                        continue;
                    };
                    if body.len() + data.len() > limit {
                        return Err(GuestError::TooLarge { what: "answer", limit });
                    }
                    body.extend_from_slice(&data);
                }
            }
        }
    }

    /// The next piece of the body, `None` at its end.
    pub(crate) async fn next_data(&mut self, limits: &Limits, idle: Duration) -> Result<Option<Bytes>, GuestError> {
        loop {
            let frame = timeout(idle, self.response.body_mut().frame())
                .await
                .map_err(|_| GuestError::Timeout { phase: Phase::Idle, after: idle })?;
            match frame {
                None => return Ok(None),
                Some(Err(error)) => return Err(from_hyper(&error, limits)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Ok(Some(data)),
                    _ => {}
                },
            }
        }
    }
}

/// What hyper's error means to a caller. Its text holds nothing of headers or bodies.
pub(crate) fn from_hyper(error: &hyper::Error, limits: &Limits) -> GuestError {
    if error.is_parse_too_large() {
        return GuestError::TooLarge { what: "answer's head", limit: limits.head_bytes };
    }
    if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        return GuestError::protocol("its connection ended in the middle of an answer");
    }
    GuestError::protocol(error.to_string())
}

/// How far a request's body has got, and why it failed when it did.
#[derive(Default)]
struct Progress {
    moves: AtomicU64,
    failure: Mutex<Option<io::Error>>,
}

impl Progress {
    fn failure(&self) -> Option<GuestError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take().map(GuestError::Source)
    }
}

/// A body that tells how far it has got.
struct Tracked {
    body: RequestBody,
    progress: Arc<Progress>,
}

impl Body for Tracked {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(_)) | None) => {
                self.progress.moves.fetch_add(1, Ordering::Relaxed);
            }
            Poll::Ready(Some(Err(error))) => {
                let copy = io::Error::new(error.kind(), error.to_string());
                *self.progress.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(copy);
            }
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
