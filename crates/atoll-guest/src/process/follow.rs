//! The event stream of one reader: start, output, keepalives, end.
//!
//! How it works: a reader's position in the record's output decides what comes next; silence is filled with keepalives,
//! a gap is told.
//!
//! Deliberately absent: ending the process when its reader goes.

use std::time::{Duration, Instant};

use atoll_proto::process::{
    __buffa::oneof::process_event::{Event, data_event::Output},
    ProcessEvent, process_event as events,
};
use connectrpc::ConnectError;
use futures_util::Stream;
use tokio::time::{sleep_until, timeout};

use super::{
    record::{End, News, Reader},
    ring::{Piece, Source},
};

/// How one reader wants its stream.
pub(crate) struct Wishes {
    /// It knows Atoll's own fields: offsets, gaps, the signal.
    pub(crate) offsets: bool,
    /// The process was there before: it is told so.
    pub(crate) known: bool,
    /// How long silence may last.
    pub(crate) keepalive: Duration,
    /// When the stream ends whatever happens: the caller's own deadline.
    pub(crate) deadline: Option<Instant>,
    /// The process's deadline is this stream's: its end by it is an error here.
    pub(crate) owns_deadline: bool,
}

enum Phase {
    Start,
    Output,
    Over,
}

struct Follow {
    reader: Reader,
    wishes: Wishes,
    phase: Phase,
}

/// The events of a process, beginning with `start`.
pub(crate) fn follow(
    reader: Reader,
    wishes: Wishes,
) -> impl Stream<Item = Result<ProcessEvent, ConnectError>> + Send + 'static {
    let follow = Follow { reader, wishes, phase: Phase::Start };
    futures_util::stream::unfold(follow, |mut follow| async move {
        let item = follow.next().await?;
        Some((item, follow))
    })
}

impl Follow {
    async fn next(&mut self) -> Option<Result<ProcessEvent, ConnectError>> {
        match self.phase {
            Phase::Over => None,
            Phase::Start => {
                self.phase = Phase::Output;
                let start = events::StartEvent {
                    pid: self.reader.record().pid,
                    offset: self.wishes.offsets.then(|| self.reader.at()),
                    known: self.wishes.known.then_some(true),
                    ..Default::default()
                };
                Some(Ok(event(start)))
            }
            Phase::Output => Some(self.news().await),
        }
    }

    async fn news(&mut self) -> Result<ProcessEvent, ConnectError> {
        let deadline = self.wishes.deadline;
        let expired = async {
            match deadline {
                Some(deadline) => sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        let news = tokio::select! {
            biased;
            news = timeout(self.wishes.keepalive, self.reader.next()) => news,
            () = expired => {
                self.phase = Phase::Over;
                return Err(ConnectError::deadline_exceeded("the request's deadline has passed"));
            }
        };
        match news {
            Err(_) => Ok(event(events::KeepAlive::default())),
            Ok(News::Output(Piece::Gap { bytes, .. })) if !self.wishes.offsets => {
                self.phase = Phase::Over;
                let message = format!("{bytes} bytes of output are gone: this reader was too slow and knows no gaps");
                Err(ConnectError::resource_exhausted(message))
            }
            Ok(News::Output(piece)) => Ok(self.output(piece)),
            Ok(News::End(end)) => {
                self.phase = Phase::Over;
                self.end(end)
            }
        }
    }

    fn output(&self, piece: Piece) -> ProcessEvent {
        match piece {
            Piece::Gap { offset, bytes } => event(events::GapEvent { bytes, offset, ..Default::default() }),
            Piece::Data { source, offset, bytes } => event(events::DataEvent {
                output: Some(match source {
                    Source::Stdout => Output::Stdout(bytes),
                    Source::Stderr => Output::Stderr(bytes),
                    Source::Pty => Output::Pty(bytes),
                }),
                offset: self.wishes.offsets.then_some(offset),
                ..Default::default()
            }),
        }
    }

    fn end(&self, end: End) -> Result<ProcessEvent, ConnectError> {
        use super::child::Exit;
        if end.timed_out && self.wishes.owns_deadline {
            return Err(ConnectError::deadline_exceeded(
                "the process ran longer than its deadline and was killed with its group",
            ));
        }
        let status = end.exit.status();
        let signal = match end.exit {
            Exit::Signal(signal) => u32::try_from(signal).ok(),
            Exit::Code(_) => None,
        };
        Ok(event(events::EndEvent {
            exit_code: end.exit.code(),
            exited: signal.is_none(),
            error: (end.exit != Exit::Code(0)).then(|| status.clone()),
            status,
            signal: signal.filter(|_| self.wishes.offsets),
            offset: self.wishes.offsets.then(|| self.reader.record().output().1),
            ..Default::default()
        }))
    }
}

fn event(event: impl Into<Event>) -> ProcessEvent {
    ProcessEvent { event: Some(event.into()), ..Default::default() }
}
