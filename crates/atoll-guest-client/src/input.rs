//! A stream of input into one process, over one connection.
//!
//! How it works: a task of its own carries the request; pieces reach it through a short channel,
//! so that a process which does not read holds its writer back and costs no memory. Silence is
//! filled with keepalives; those do not flow either while the process does not read, so the same
//! patience ([`Limits::idle`]) holds for the request as for its pieces.
//!
//! Deliberately absent: order between two sinks of one process.

use std::{sync::Arc, time::Duration};

use atoll_proto::process as wire;
use bytes::Bytes;
use http::request;
use http_body_util::{BodyExt, StreamBody};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::task::AbortOnDropHandle;
use wire::{
    __buffa::oneof::{process_input, stream_input_request},
    stream_input_request as message,
};

use crate::{
    Dial, GuestError, Limits, Phase, Selector,
    connect::{self, Envelopes},
    http1::{RequestBody, exchange},
};

/// How large one message of input is.
const PIECE: usize = 32 * 1024;
/// How many messages wait for the wire.
const PIECES: usize = 8;

/// Input of one process. Dropping it breaks the connection off; what was sent before may or
/// may not have reached the process, and its input stays open.
pub struct InputSink {
    sender: mpsc::Sender<Bytes>,
    request: Option<AbortOnDropHandle<Result<(), GuestError>>>,
    pty: bool,
    patience: Duration,
}

impl InputSink {
    /// Hands input over, waiting as long as the process does not read.
    ///
    /// `Timeout` when the process takes nothing for [`Limits::idle`]; the error of the agent
    /// when it has refused (no such process, its input closed). After an error the sink is done.
    /// Dropped before it is ready, it may have sent a part.
    pub async fn send(&mut self, input: &[u8]) -> Result<(), GuestError> {
        for piece in input.chunks(PIECE) {
            let data = message::DataEvent { input: to_wire(piece, self.pty).into(), ..Default::default() };
            let frame = frame(stream_input_request::Event::Data(Box::new(data)))?;
            match timeout(self.patience, self.sender.send(frame)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(self.refusal().await),
                Err(_) => {
                    return Err(GuestError::Timeout { phase: Phase::Idle, after: self.patience });
                }
            }
        }
        Ok(())
    }

    /// Ends the stream and waits for the agent to say that all of it reached the process.
    /// Standard input stays open: [`crate::GuestClient::close_stdin`] closes it.
    pub async fn finish(mut self) -> Result<(), GuestError> {
        let request = self.request.take();
        drop(self.sender);
        match request {
            Some(request) => request.await.unwrap_or_else(|_| Err(ended())),
            None => Err(ended()),
        }
    }

    async fn refusal(&mut self) -> GuestError {
        match self.request.take() {
            Some(request) => match request.await {
                Ok(Err(error)) => error,
                _ => ended(),
            },
            None => ended(),
        }
    }
}

fn ended() -> GuestError {
    GuestError::protocol("a stream of input that ended early")
}

impl std::fmt::Debug for InputSink {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("InputSink").finish_non_exhaustive()
    }
}

/// One piece of input on the wire.
pub(crate) fn to_wire(input: &[u8], pty: bool) -> wire::ProcessInput {
    let input = input.to_vec();
    let input = if pty { process_input::Input::Pty(input) } else { process_input::Input::Stdin(input) };
    wire::ProcessInput { input: Some(input), ..Default::default() }
}

fn frame(event: stream_input_request::Event) -> Result<Bytes, GuestError> {
    connect::envelope(&wire::StreamInputRequest { event: Some(event), ..Default::default() })
}

/// Opens the stream; the connection comes about behind it.
pub(crate) fn open(
    dial: Arc<dyn Dial>,
    limits: Limits,
    request: request::Builder,
    selector: &Selector,
    pty: bool,
) -> Result<InputSink, GuestError> {
    let first = frame(stream_input_request::Event::Start(Box::new(message::StartEvent {
        process: selector.to_wire().into(),
        ..Default::default()
    })))?;
    let keepalive = frame(stream_input_request::Event::Keepalive(Box::default()))?;
    let (sender, receiver) = mpsc::channel(PIECES);
    let body = body(first, keepalive, receiver, limits.keepalive);
    let request = request.body(body).map_err(|_| GuestError::protocol("a token that fits in no HTTP request"))?;
    let patience = limits.idle;
    let task = tokio::spawn(async move {
        // A body that stands still says only that the process reads later: an agent that is gone breaks the connection.
        let silence = limits.keepalive.saturating_mul(3).max(patience);
        let exchange = exchange(&*dial, &limits, request, silence).await?;
        let mut answer = Envelopes::new(exchange, &limits).await?;
        while answer.next::<wire::StreamInputResponse>(&limits, limits.head).await?.is_some() {}
        Ok(())
    });
    Ok(InputSink { sender, request: Some(AbortOnDropHandle::new(task)), pty, patience })
}

/// Frames as they come, and a keepalive whenever none comes.
fn body(first: Bytes, keepalive: Bytes, receiver: mpsc::Receiver<Bytes>, silence: Duration) -> RequestBody {
    let state = (Some(first), receiver);
    let frames = futures_util::stream::unfold(state, move |(first, mut receiver)| {
        let keepalive = keepalive.clone();
        async move {
            let next = match first {
                Some(first) => first,
                None => match timeout(silence, receiver.recv()).await {
                    Ok(piece) => piece?,
                    Err(_) => keepalive,
                },
            };
            Some((Ok(http_body::Frame::data(next)), (None, receiver)))
        }
    });
    BodyExt::boxed_unsync(StreamBody::new(frames))
}
