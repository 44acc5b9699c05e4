//! What a client sends to a process, on its way there.
//!
//! How it works: one stream of input for the whole session, opened by the first byte, so that all of it arrives in order and whole. What the
//! process does not read yet waits here, up to [`CAP`]; the client is read on meanwhile, so that `stop` is heard. Beyond the cap it
//! is not read, and waits itself.
//!
//! Deliberately absent: a limit of time. A process reads when it likes.

use std::collections::VecDeque;
use std::future::pending;
use std::time::Duration;

use atoll_control::ControlError;
use atoll_control::sandboxes::ProcessHandle;
use atoll_guest_client::{GuestError, InputSink};
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::time::timeout;

use crate::socket::{End, Reader, Said};

/// Most bytes that wait for a process.
const CAP: usize = 1024 * 1024;
/// How long the process has for what a client sent before it left.
const LAST: Duration = Duration::from_secs(5);

enum Piece {
    Bytes(Bytes),
    Close,
}

/// A process's input, or its terminal.
pub(crate) struct Feed {
    handle: ProcessHandle,
    pty: bool,
    waiting: VecDeque<Piece>,
    /// What waits, and what is being carried.
    bytes: usize,
    carrying: Option<(usize, BoxFuture<'static, Result<Option<InputSink>, ControlError>>)>,
    sink: Option<InputSink>,
}

impl Feed {
    pub(crate) fn new(handle: ProcessHandle, pty: bool) -> Self {
        Self { handle, pty, waiting: VecDeque::new(), bytes: 0, carrying: None, sink: None }
    }

    /// Puts bytes behind what waits.
    pub(crate) fn push(&mut self, bytes: Bytes) {
        self.handle.touch();
        self.bytes += bytes.len();
        self.waiting.push_back(Piece::Bytes(bytes));
    }

    /// Closes standard input behind what waits.
    pub(crate) fn close(&mut self) {
        self.waiting.push_back(Piece::Close);
    }

    /// What the client says next; what waits is carried meanwhile, and the client is not read while there is no room.
    pub(crate) async fn next(&mut self, reader: &mut Reader) -> Result<Said, End> {
        loop {
            let has_room = self.bytes < CAP;
            tokio::select! {
                carried = self.carry() => {
                    if let Some(end) = carried.err().and_then(lost) {
                        return Err(end);
                    }
                }
                said = reader.next(), if has_room => return said,
            }
        }
    }

    /// Carries one piece; after each there may be room again. Never ends while none waits; after an error none does. Dropping the future
    /// loses nothing.
    async fn carry(&mut self) -> Result<(), ControlError> {
        let Some(carried) = self.step().await else { return pending().await };
        if carried.is_err() {
            self.waiting.clear();
            self.bytes = 0;
        }
        carried
    }

    /// Brings to its end what a client sent before it left, as far as the process takes it.
    pub(crate) async fn finish(mut self) {
        let all = async {
            while let Some(Ok(())) = self.step().await {}
            match self.sink.take() {
                Some(sink) => sink.finish().await.map_err(ControlError::Guest),
                None => Ok(()),
            }
        };
        if !matches!(timeout(LAST, all).await, Ok(Ok(()))) {
            tracing::debug!("a process did not take all that was sent to it");
        }
    }

    /// Carries one piece; none if none waits.
    async fn step(&mut self) -> Option<Result<(), ControlError>> {
        if self.carrying.is_none() {
            let piece = self.waiting.pop_front()?;
            let size = if let Piece::Bytes(bytes) = &piece { bytes.len() } else { 0 };
            let work = carry(self.handle.clone(), self.pty, self.sink.take(), piece);
            self.carrying = Some((size, work.boxed()));
        }
        let (size, work) = self.carrying.as_mut()?;
        let done = work.await;
        self.bytes = self.bytes.saturating_sub(*size);
        self.carrying = None;
        Some(done.map(|sink| self.sink = sink))
    }
}

/// How input that did not arrive ends a session: not when the process refuses it, because it has ended or takes none.
fn lost(error: ControlError) -> Option<End> {
    tracing::debug!(%error, "a process did not take what was sent to it");
    match error {
        ControlError::Guest(GuestError::Rejected { .. }) => None,
        _ => Some(End::Failed("input was lost".into())),
    }
}

async fn carry(
    handle: ProcessHandle,
    pty: bool,
    sink: Option<InputSink>,
    piece: Piece,
) -> Result<Option<InputSink>, ControlError> {
    match piece {
        Piece::Bytes(bytes) => {
            let mut sink = match sink {
                Some(sink) => sink,
                None => handle.open_input(pty)?,
            };
            sink.send(&bytes).await.map_err(ControlError::Guest)?;
            Ok(Some(sink))
        }
        Piece::Close => {
            if let Some(sink) = sink {
                sink.finish().await.map_err(ControlError::Guest)?;
            }
            handle.close_input().await.map(|()| None)
        }
    }
}
