//! What a client sends to a process, on its way there.
//!
//! How it works: one stream of input for the whole session, opened by the first byte, so that all of it arrives in order and whole. What the
//! process does not read yet waits here. A client that asked to be told how much was taken ([`Notices`]) is read on whatever waits, so that its
//! `stop` is always heard; what it sends beyond [`CAP`] is refused, and all input after that, so that no hole is left in it. One that did not ask
//! knows no such bound: behind [`HELD`] it is not read on until the process has read.
//!
//! Deliberately absent: a limit of time. A process reads when it likes.

use std::collections::VecDeque;
use std::future::pending;
use std::time::Duration;

use atoll_api::{ErrorCode, StreamError};
use atoll_control::ControlError;
use atoll_control::sandboxes::ProcessHandle;
use atoll_guest_client::{GuestError, InputSink};
use bytes::BytesMut;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::socket::{End, Reader, Said};

/// Most bytes that wait for a process.
pub(crate) const CAP: usize = 1024 * 1024;
/// The same for a client that is not told how much was taken: it is heard for so long, and loses nothing beyond.
const HELD: usize = 16 * 1024 * 1024;
/// Small pieces become one of at most so many bytes, so that what waits costs little more than its bytes.
const PIECE: usize = 32 * 1024;
/// How long the process has for what a client sent before it left.
const LAST: Duration = Duration::from_secs(5);

enum Piece {
    Bytes(BytesMut),
    Close,
}

/// A process's input, or its terminal.
pub(crate) struct Feed {
    handle: ProcessHandle,
    pty: bool,
    /// The client is told how much was taken.
    acks: bool,
    waiting: VecDeque<Piece>,
    /// What waits, and what is being carried.
    bytes: usize,
    carrying: Option<(usize, BoxFuture<'static, Result<Option<InputSink>, ControlError>>)>,
    sink: Option<InputSink>,
    /// All that came and was not refused.
    came: u64,
    /// Nothing is taken any more.
    refuses: bool,
    /// Nothing comes after what waits.
    closed: bool,
    told: watch::Sender<Told>,
}

/// How a client's input fares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Told {
    taken: u64,
    /// How often there was no more room.
    refusals: u64,
}

impl Feed {
    pub(crate) fn new(handle: ProcessHandle, pty: bool, acks: bool) -> Self {
        Self {
            handle,
            pty,
            acks,
            waiting: VecDeque::new(),
            bytes: 0,
            carrying: None,
            sink: None,
            came: 0,
            refuses: false,
            closed: false,
            told: watch::Sender::new(Told::default()),
        }
    }

    /// What the client is to be told; how much was taken only if it wants to know.
    pub(crate) fn notices(&self) -> Notices {
        Notices { told: self.told.subscribe(), known: Told::default(), acks: self.acks }
    }

    /// Puts bytes behind what waits, or refuses them.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.handle.touch();
        if self.closed {
            return;
        }
        if self.acks && !self.refuses && self.bytes + bytes.len() > CAP {
            self.refuses = true;
            self.told.send_modify(|told| told.refusals += 1);
        }
        if self.refuses {
            return;
        }
        self.bytes += bytes.len();
        self.came += bytes.len() as u64;
        match self.waiting.back_mut() {
            Some(Piece::Bytes(last)) if last.len() + bytes.len() <= PIECE => last.extend_from_slice(bytes),
            _ => self.waiting.push_back(Piece::Bytes(bytes.into())),
        }
    }

    /// Closes standard input behind what waits.
    pub(crate) fn close(&mut self) {
        if !self.closed {
            self.closed = true;
            self.waiting.push_back(Piece::Close);
        }
    }

    /// What the client says next; what waits is carried meanwhile.
    pub(crate) async fn next(&mut self, reader: &mut Reader) -> Result<Said, End> {
        loop {
            tokio::select! {
                carried = self.carry() => {
                    if let Some(end) = carried.err().and_then(lost) {
                        return Err(end);
                    }
                }
                said = reader.next(), if self.acks || self.bytes < HELD => return said,
            }
        }
    }

    /// Carries one piece. Never ends while none waits; after an error none does. Dropping the future loses nothing.
    async fn carry(&mut self) -> Result<(), ControlError> {
        let Some(carried) = self.step().await else { return pending().await };
        if carried.is_err() {
            self.waiting.clear();
            self.bytes = 0;
        }
        let taken = self.came - self.bytes as u64;
        self.told.send_modify(|told| told.taken = taken);
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

/// What a client hears of its input, from the half that writes.
pub(crate) struct Notices {
    told: watch::Receiver<Told>,
    known: Told,
    acks: bool,
}

/// One thing to tell.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// So much was taken in all.
    Taken(u64),
    /// There is no room for more.
    Refused(StreamError),
}

impl Notices {
    /// The next notice; it never ends when there will be none. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Notice {
        loop {
            let told = *self.told.borrow_and_update();
            if told.refusals != self.known.refusals {
                self.known.refusals = told.refusals;
                return Notice::Refused(refused());
            }
            if self.acks && told.taken != self.known.taken {
                self.known.taken = told.taken;
                return Notice::Taken(told.taken);
            }
            if self.told.changed().await.is_err() {
                return pending().await;
            }
        }
    }
}

fn refused() -> StreamError {
    let data = format!("input was refused: the program has not read the last {} KiB yet", CAP / 1024);
    StreamError { data, code: Some(ErrorCode::TooMany), fatal: false }
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
