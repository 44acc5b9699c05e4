//! One process as the agent knows it: output, readers, input, end.
//!
//! How it works: output never waits for a reader that did not ask for it. Who can be told of gaps has the ring, and sees a
//! gap when it is slower than that; for who knows no gaps (a client without Atoll's fields) the ring holds more, and a
//! stream that is slower than that ends. Waited for is only who asks ([`Pace::Waited`]: a pipe's reader, who wants every
//! byte): when such a reader is half a ring behind, reading the process's output waits for it, at most [`PATIENCE`]
//! without a move; then the process goes on without it until it has taken a quarter of a ring.
//!
//! Of a process that has ended a while ago only its end is kept ([`Record::fade`]), and what its readers still read.
//!
//! Deliberately absent: output on disk.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::timeout,
};

use super::{
    child::{self, Exit},
    input::Input,
    ring::{Piece, Ring, Room, Source},
};
use crate::error::AgentError;

/// How long output waits for a reader that is to be waited for and does not move. Not so short that a reader on a
/// busy machine, which only waits for its turn, loses output that it would have taken.
const PATIENCE: Duration = Duration::from_secs(3);

/// What was asked to run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Config {
    pub(crate) cmd: String,
    pub(crate) args: Vec<String>,
    pub(crate) envs: BTreeMap<String, String>,
    pub(crate) cwd: Option<String>,
}

/// How a process ended, and whether its deadline was the cause.
#[derive(Debug, Clone, Copy)]
pub(crate) struct End {
    pub(crate) exit: Exit,
    pub(crate) timed_out: bool,
}

/// What a process was started as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Names {
    /// By which it is found.
    pub(crate) tag: Option<String>,
    /// Which operation of the host started it: the same one again finds it instead of starting another.
    pub(crate) operation: Option<String>,
}

impl Names {
    /// How many bytes they take.
    pub(crate) fn bytes(&self) -> usize {
        self.tag.as_ref().map_or(0, String::len) + self.operation.as_ref().map_or(0, String::len)
    }
}

/// A process that was started here.
pub(crate) struct Record {
    pub(crate) pid: u32,
    pub(crate) names: Names,
    pub(crate) input: Input,
    shared: Mutex<Shared>,
    changed: watch::Sender<()>,
    drained: Notify,
    /// Nobody reads any more: output is thrown away.
    closed: AtomicBool,
    /// Output is held back for a reader at the moment.
    held_back: AtomicBool,
    next_reader: AtomicU64,
}

struct Shared {
    /// Nobody asks for it after the end.
    config: Option<Config>,
    ring: Ring,
    readers: BTreeMap<u64, Mark>,
    end: Option<End>,
    /// The pid is free again and may be somebody else's.
    reaped: bool,
    /// Its output is kept for the readers that it has, and for no other.
    faded: bool,
}

impl Shared {
    /// From where on a reader that knows no gaps needs everything.
    fn needed(&self) -> Option<u64> {
        self.readers.values().filter(|mark| mark.pace == Pace::Kept).map(|mark| mark.at).min()
    }
}

/// Whether a process waits for a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Never: the reader is told what it missed.
    Free,
    /// Never: more is kept for it, and its stream ends where that is not enough.
    Kept,
    /// As long as it moves.
    Waited,
}

/// How far a reader has got.
struct Mark {
    at: u64,
    pace: Pace,
    stalled: bool,
    /// How much it has taken since it was found stalled.
    taken: u64,
}

impl Record {
    pub(crate) fn new(pid: u32, names: Names, config: Config, input: Input, room: Room) -> Self {
        Self {
            pid,
            names,
            input,
            shared: Mutex::new(Shared {
                config: Some(config),
                ring: Ring::new(room),
                readers: BTreeMap::new(),
                end: None,
                reaped: false,
                faded: false,
            }),
            changed: watch::Sender::new(()),
            drained: Notify::new(),
            closed: AtomicBool::new(false),
            held_back: AtomicBool::new(false),
            next_reader: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.lock().end.is_some()
    }

    /// How much output is kept, and how much there was.
    pub(crate) fn output(&self) -> (usize, u64) {
        let shared = self.lock();
        (shared.ring.held(), shared.ring.end())
    }

    /// What was asked to run; nothing once it has ended.
    pub(crate) fn config(&self) -> Option<Config> {
        self.lock().config.clone()
    }

    pub(crate) fn is_held_back(&self) -> bool {
        self.held_back.load(Ordering::Relaxed)
    }

    /// Adds output.
    pub(crate) fn push(&self, source: Source, bytes: &[u8]) {
        if self.closed.load(Ordering::Relaxed) {
            return;
        }
        let mut shared = self.lock();
        let needed = shared.needed();
        shared.ring.push(source, bytes, needed);
        drop(shared);
        self.changed.send_replace(());
    }

    /// Gives the pid back. No signal is sent to it from now on.
    pub(crate) fn reap(&self) {
        let mut shared = self.lock();
        if let (false, Ok(pid)) = (shared.reaped, libc::pid_t::try_from(self.pid)) {
            child::reap(pid);
            shared.reaped = true;
        }
    }

    /// Says that the process has ended. Later output is thrown away.
    pub(crate) fn finish(&self, end: End) {
        self.closed.store(true, Ordering::Relaxed);
        let mut shared = self.lock();
        shared.end = Some(end);
        shared.config = None;
        drop(shared);
        self.changed.send_replace(());
    }

    /// Lets go of everything but the end: output, once those who read it now have it, and the way in.
    pub(crate) fn fade(&self) {
        let mut shared = self.lock();
        shared.faded = true;
        if shared.readers.is_empty() {
            shared.ring.clear();
        }
        drop(shared);
        self.input.let_go();
    }

    /// Waits until every reader that is to be waited for, and moves, is less than half a ring behind.
    pub(crate) async fn wait_for_readers(&self) {
        if self.closed.load(Ordering::Relaxed) || self.behind().is_empty() {
            return;
        }
        self.held_back.store(true, Ordering::Relaxed);
        loop {
            let drained = self.drained.notified();
            let before = self.behind();
            if before.is_empty() {
                break;
            }
            if timeout(PATIENCE, drained).await.is_err() {
                self.give_up_on(&before);
            }
        }
        self.held_back.store(false, Ordering::Relaxed);
    }

    /// Readers that output has to wait for, and where they stand.
    fn behind(&self) -> Vec<(u64, u64)> {
        let shared = self.lock();
        let tolerated = (shared.ring.capacity() / 2) as u64;
        let end = shared.ring.end();
        shared
            .readers
            .iter()
            .filter(|(_, mark)| mark.pace == Pace::Waited && !mark.stalled && end - mark.at > tolerated)
            .map(|(id, mark)| (*id, mark.at))
            .collect()
    }

    fn give_up_on(&self, before: &[(u64, u64)]) {
        let mut shared = self.lock();
        for (id, at) in before {
            if let Some(mark) = shared.readers.get_mut(id)
                && mark.at == *at
            {
                mark.stalled = true;
                mark.taken = 0;
            }
        }
    }

    /// A reader from `offset` on (`None`: from now on).
    pub(crate) fn reader(self: &Arc<Self>, offset: Option<u64>, pace: Pace) -> Reader {
        let id = self.next_reader.fetch_add(1, Ordering::Relaxed);
        let changed = self.changed.subscribe();
        let mut shared = self.lock();
        let end = shared.ring.end();
        let at = offset.map_or(end, |offset| offset.min(end));
        shared.readers.insert(id, Mark { at, pace, stalled: false, taken: 0 });
        drop(shared);
        Reader { record: Arc::clone(self), changed, id, at }
    }

    /// Signals the process's whole group, as long as it has not been reaped.
    pub(crate) fn signal(&self, signal: i32) -> Result<(), AgentError> {
        // The lock keeps `reap`, and so the pid's reuse, away from the check.
        let shared = self.lock();
        if shared.reaped {
            return Err(AgentError::NoProcess(self.pid.to_string()));
        }
        child::signal_group(self.pid, signal).map_err(|source| match source.raw_os_error() {
            Some(libc::ESRCH) => AgentError::NoProcess(self.pid.to_string()),
            Some(libc::EINVAL) => AgentError::Invalid(format!("signal {signal} does not exist")),
            _ => AgentError::io("sending the signal", source),
        })
    }
}

/// Somebody who follows a process. Dropping it costs the process nothing.
pub(crate) struct Reader {
    record: Arc<Record>,
    changed: watch::Receiver<()>,
    id: u64,
    at: u64,
}

/// What a reader learns next.
pub(crate) enum News {
    Output(Piece),
    End(End),
}

impl Reader {
    pub(crate) fn record(&self) -> &Arc<Record> {
        &self.record
    }

    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// The next news. Loses nothing when it is dropped before it is ready.
    pub(crate) async fn next(&mut self) -> News {
        loop {
            self.changed.mark_unchanged();
            if let Some(news) = self.take() {
                return news;
            }
            // The sender lives in the record that this reader holds.
            let _ = self.changed.changed().await;
        }
    }

    fn take(&mut self) -> Option<News> {
        let mut shared = self.record.lock();
        let Some(piece) = shared.ring.read(self.at) else {
            return shared.end.map(News::End);
        };
        self.at = piece.end();
        let (end, capacity) = (shared.ring.end(), shared.ring.capacity() as u64);
        if let Some(mark) = shared.readers.get_mut(&self.id) {
            mark.at = self.at;
            // One that moves again counts again: it need not catch up with a process that is faster.
            mark.taken += piece.data();
            mark.stalled = mark.stalled && mark.taken < capacity / 4 && end - self.at > capacity / 4;
        }
        drop(shared);
        self.record.drained.notify_one();
        Some(News::Output(piece))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut shared = self.record.lock();
        shared.readers.remove(&self.id);
        let needed = shared.needed();
        shared.ring.forget(needed);
        if shared.faded && shared.readers.is_empty() {
            shared.ring.clear();
        }
        drop(shared);
        self.record.drained.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const CAPACITY: usize = 1 << 20;
    const SLACK: usize = 4 << 20;

    fn record() -> Arc<Record> {
        let config = Config { cmd: "x".into(), args: Vec::new(), envs: BTreeMap::new(), cwd: None };
        let room = Room { capacity: CAPACITY, slack: SLACK };
        Arc::new(Record::new(1, Names::default(), config, Input::none(), room))
    }

    /// Writes as `tend` does; false when that would have to wait.
    fn write(record: &Record, bytes: usize) -> bool {
        for _ in 0..bytes / 4096 {
            if record.wait_for_readers().now_or_never().is_none() {
                return false;
            }
            record.push(Source::Stdout, &[7; 4096]);
        }
        true
    }

    fn read(reader: &mut Reader) -> (u64, u64) {
        let (mut bytes, mut missed) = (0, 0);
        while let Some(News::Output(piece)) = reader.next().now_or_never() {
            match piece {
                Piece::Data { bytes: data, .. } => bytes += data.len() as u64,
                Piece::Gap { bytes: gap, .. } => missed += gap,
            }
        }
        (bytes, missed)
    }

    #[test]
    fn a_reader_that_stalls_holds_nothing_back_and_bytes_plus_gaps_are_the_total() {
        let record = record();
        let mut stalled = record.reader(Some(0), Pace::Free);
        assert!(write(&record, 100 << 20), "the process would have waited");
        let (bytes, missed) = read(&mut stalled);
        assert_eq!(bytes + missed, 100 << 20);
        assert!(bytes >= CAPACITY as u64, "the last MiB is kept, {bytes} came");
    }

    #[test]
    fn one_that_knows_no_gaps_holds_nothing_back_either_and_more_is_kept_for_it() {
        let record = record();
        let mut plain = record.reader(Some(0), Pace::Kept);
        assert!(write(&record, SLACK), "the process would have waited");
        assert_eq!(read(&mut plain), (SLACK as u64, 0));
        assert!(write(&record, 100 << 20), "the process would have waited");
        let (bytes, missed) = read(&mut plain);
        assert_eq!(bytes + missed, 100 << 20);
        assert!(bytes >= SLACK as u64 && missed > 0, "{bytes} bytes were kept");
        drop(plain);
        assert!(record.output().0 <= CAPACITY + 2 * crate::process::ring::PIECE, "{:?}", record.output());
    }

    #[test]
    fn what_has_faded_is_a_gap_and_an_end_and_its_readers_lose_nothing() {
        let record = record();
        let mut reader = record.reader(Some(0), Pace::Free);
        assert!(write(&record, 8192));
        record.finish(End { exit: Exit::Code(3), timed_out: false });
        record.fade();
        assert_eq!(read(&mut reader), (8192, 0), "it had come before");
        drop(reader);
        let mut late = record.reader(Some(0), Pace::Free);
        assert_eq!(read(&mut late), (0, 8192));
        assert!(matches!(late.next().now_or_never(), Some(News::End(End { exit: Exit::Code(3), .. }))));
        assert_eq!(record.output(), (0, 8192));
    }

    #[tokio::test]
    async fn a_reader_that_asks_is_waited_for_and_misses_nothing() {
        let record = record();
        let mut pipe = record.reader(Some(0), Pace::Waited);
        assert!(!write(&record, CAPACITY), "it is more than half a ring behind");
        let mut total = 0;
        while total < 10 << 20 {
            let (bytes, missed) = read(&mut pipe);
            assert_eq!(missed, 0);
            total += bytes;
            write(&record, CAPACITY);
        }
        drop(pipe);
        assert!(write(&record, 2 * CAPACITY), "who has gone is not waited for");
    }
}
