//! What the host did or saw by itself, numbered and kept until the control plane has it.
//!
//! How it works: an event is appended to `DATA/events` and synced before anybody hears of it; an acknowledgement rewrites the file
//! without what is stored elsewhere now. The number goes on over restarts: the file's first line holds the last one given.
//!
//! Deliberately absent: more than one reader. A second `watch` gets its own copy from its own number.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use atoll_domain::host::{EventSeq, HostEvent, HostEventKind};
use atoll_domain::{Incarnation, SandboxId};
use nix::fcntl::{FallocateFlags, fallocate};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::data_dir::replace;
use crate::journal::append_whole;
use crate::{StartError, Step};

/// Room for the events of many sandboxes.
const RESERVED: i64 = 64 * 1024;

#[derive(Debug, Default, Serialize, Deserialize)]
struct Header {
    last: EventSeq,
}

#[derive(Debug, Default)]
struct Log {
    last: EventSeq,
    kept: VecDeque<HostEvent>,
    /// Stands in its sandbox's journal with its number, and could not be written here yet.
    owed: Option<HostEvent>,
}

/// The stream.
#[derive(Debug)]
pub(crate) struct Events {
    path: PathBuf,
    log: Mutex<Log>,
    news: watch::Sender<EventSeq>,
}

impl Events {
    /// Reads what an earlier start left.
    pub(crate) fn open(data: &Path) -> Result<Self, StartError> {
        let path = data.join("events");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(StartError::file("read", &path)(error)),
        };
        let mut lines = text.lines();
        let header: Header = lines.next().and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default();
        let kept: VecDeque<HostEvent> = lines.map_while(|line| serde_json::from_str(line).ok()).collect();
        let last = kept.back().map_or(header.last, |event| event.seq.max(header.last));
        let (news, _) = watch::channel(last);
        let log = Log { last, kept, owed: None };
        if !text.ends_with('\n') {
            // A line cut short must not stand before the next one, and the file must be there while the disk has space.
            rewrite(&path, &log).map_err(StartError::file("write", &path))?;
        }
        Ok(Self { path, log: Mutex::new(log), news })
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        // A panic while the log is held leaves it as it was before or after one push.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes an event; blocks until it is on disk. `first` writes it down where it is found again if a crash comes in between;
    /// no other event gets a number meanwhile, so at most one is ever written there and not here.
    pub(crate) fn note(
        &self,
        sandbox: &SandboxId,
        incarnation: Incarnation,
        kind: HostEventKind,
        first: impl FnOnce(&HostEvent) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let mut log = self.log();
        // Before another number is drawn: its own would be given twice.
        if let Some(owed) = log.owed.clone() {
            self.append(&mut log, owed)?;
            log.owed = None;
        }
        let seq = EventSeq(log.last.0 + 1);
        let event = HostEvent { seq, sandbox: sandbox.clone(), incarnation, kind };
        first(&event)?;
        let appended = self.append(&mut log, event.clone());
        if appended.is_err() {
            log.owed = Some(event);
        }
        appended
    }

    /// Takes in what was written down elsewhere; answers whether it was missing here.
    pub(crate) fn restore(&self, event: &HostEvent) -> std::io::Result<bool> {
        let mut log = self.log();
        if event.seq <= log.last {
            return Ok(false);
        }
        self.append(&mut log, event.clone())?;
        Ok(true)
    }

    fn append(&self, log: &mut Log, event: HostEvent) -> std::io::Result<()> {
        let seq = event.seq;
        let mut line = serde_json::to_vec(&event)?;
        line.push(b'\n');
        Step::EventAppend.before();
        if !self.path.exists() {
            rewrite(&self.path, log)?;
        }
        let mut file = std::fs::OpenOptions::new().append(true).open(&self.path)?;
        append_whole(&mut file, &line)?;
        // The next one may tell of a full disk. Where the file system cannot reserve, it is found when it is met.
        let _ = fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, RESERVED);
        log.last = seq;
        log.kept.push_back(event);
        Step::EventAppend.after();
        self.news.send_replace(seq);
        Ok(())
    }

    /// Forgets everything up to a number; blocks until that is on disk.
    pub(crate) fn acknowledge(&self, seq: EventSeq) -> std::io::Result<()> {
        let mut log = self.log();
        let before = log.kept.len();
        log.kept.retain(|event| event.seq > seq);
        if log.kept.len() == before {
            return Ok(());
        }
        Step::EventAcknowledge.before();
        rewrite(&self.path, &log)?;
        Step::EventAcknowledge.after();
        Ok(())
    }

    /// What came after a number.
    pub(crate) fn after(&self, seq: EventSeq) -> Vec<HostEvent> {
        self.log().kept.iter().filter(|event| event.seq > seq).cloned().collect()
    }

    /// Tells when there is something new.
    pub(crate) fn news(&self) -> watch::Receiver<EventSeq> {
        self.news.subscribe()
    }
}

fn rewrite(path: &Path, log: &Log) -> std::io::Result<()> {
    let mut bytes = serde_json::to_vec(&Header { last: log.last })?;
    for event in &log.kept {
        bytes.push(b'\n');
        bytes.extend(serde_json::to_vec(event)?);
    }
    bytes.push(b'\n');
    replace(path, &bytes, 0o600)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(events: &Events, reason: &str) {
        let kind = HostEventKind::Ended { reason: reason.into() };
        events.note(&SandboxId::from_random([1; 16]), Incarnation::FIRST, kind, |_| Ok(())).unwrap();
    }

    #[test]
    fn numbers_go_on_over_restarts_and_acknowledged_events_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let events = Events::open(dir.path()).unwrap();
        note(&events, "a");
        note(&events, "b");
        events.acknowledge(EventSeq(1)).unwrap();
        let again = Events::open(dir.path()).unwrap();
        assert_eq!(again.after(EventSeq(0)).iter().map(|e| e.seq.0).collect::<Vec<_>>(), [2]);
        again.acknowledge(EventSeq(2)).unwrap();
        let third = Events::open(dir.path()).unwrap();
        assert!(third.after(EventSeq(0)).is_empty());
        note(&third, "c");
        assert_eq!(third.after(EventSeq(0))[0].seq, EventSeq(3));
    }

    #[test]
    fn a_line_cut_short_by_a_crash_is_no_event() {
        let dir = tempfile::tempdir().unwrap();
        note(&Events::open(dir.path()).unwrap(), "a");
        let path = dir.path().join("events");
        let mut text = std::fs::read(&path).unwrap();
        text.extend_from_slice(b"{\"seq\":2,\"sand");
        std::fs::write(&path, text).unwrap();
        assert_eq!(Events::open(dir.path()).unwrap().after(EventSeq(0)).len(), 1);
    }

    #[test]
    fn a_number_that_could_not_be_written_is_not_given_again() {
        let dir = tempfile::tempdir().unwrap();
        let events = Events::open(dir.path()).unwrap();
        let path = dir.path().join("events");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let mut journaled = Vec::new();
        let sandbox = SandboxId::from_random([1; 16]);
        let mut try_note = || {
            events.note(&sandbox, Incarnation::FIRST, HostEventKind::DiskFull, |event| {
                journaled.push(event.seq.0);
                Ok(())
            })
        };
        assert!(try_note().is_err() && try_note().is_err());
        std::fs::remove_dir(&path).unwrap();
        try_note().unwrap();
        assert_eq!(journaled, [1, 2], "each number once, and none while another is owed");
        let told = |events: &Events| events.after(EventSeq(0)).iter().map(|e| e.seq.0).collect::<Vec<_>>();
        assert_eq!(told(&events), [1, 2]);
        assert_eq!(told(&Events::open(dir.path()).unwrap()), [1, 2]);
    }

    #[test]
    fn an_event_is_told_once_wherever_a_crash_comes() {
        let dir = tempfile::tempdir().unwrap();
        let kind = HostEventKind::DiskFull;
        let sandbox = SandboxId::from_random([1; 16]);
        let mut journaled = None;
        let events = Events::open(dir.path()).unwrap();
        // A crash between the two: as if the second write had never happened.
        let cut = events.note(&sandbox, Incarnation::FIRST, kind, |event| {
            journaled = Some(event.clone());
            Err(std::io::ErrorKind::Interrupted.into())
        });
        assert!(cut.is_err());
        let again = Events::open(dir.path()).unwrap();
        let journaled = journaled.unwrap();
        assert!(again.restore(&journaled).unwrap());
        assert!(!again.restore(&journaled).unwrap());
        note(&again, "b");
        let numbers: Vec<u64> = Events::open(dir.path()).unwrap().after(EventSeq(0)).iter().map(|e| e.seq.0).collect();
        assert_eq!(numbers, [1, 2]);
        again.acknowledge(EventSeq(2)).unwrap();
        assert!(!Events::open(dir.path()).unwrap().restore(&journaled).unwrap(), "not even when it was forgotten");
    }
}
