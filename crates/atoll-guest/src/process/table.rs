//! All processes that were started here: the running ones, and the ended ones, so that a late reader still learns how
//! it went.
//!
//! How it works: one map under one lock; memory for output is shared out by how many run. Of an ended process the output
//! is kept for half a minute, or until that of later ones needs the room; its end is kept until very many have ended
//! after it. A start claims its tag and its operation before anything is made, so that of two at once one is refused, or
//! finds the other's process.
//!
//! Deliberately absent: processes that user code started by itself.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

use super::{
    record::{Names, Record},
    ring::Room,
};
use crate::{cgroup::Groups, error::AgentError};

/// How many processes may run at once through the agent.
const RUNNING_LIMIT: usize = 1024;
/// How much output of ended processes is kept, and of how many.
const OUTPUT_BYTES: usize = 8 << 20;
const OUTPUT_COUNT: usize = 256;
/// Of how many more the end is kept, and how long their names may be in all.
const ENDED_COUNT: usize = 4096;
const ENDED_NAMES: usize = 1 << 20;
/// How much output of one process is kept when many run.
const RING_LEAST: usize = 64 << 10;
/// How much more is kept for a reader that knows no gaps.
const SLACK: usize = 32 << 20;

/// Which process is meant.
#[derive(Debug, Clone)]
pub(crate) enum Selector {
    Pid(u32),
    Tag(String),
}

/// The processes of this agent.
pub(crate) struct Table {
    inner: Mutex<Inner>,
    /// A start has succeeded or failed.
    settled: Notify,
    ever: AtomicBool,
    pub(crate) groups: Groups,
    pub(crate) tasks: TaskTracker,
    /// What all rings together may take, in bytes.
    budget: usize,
}

#[derive(Default)]
struct Inner {
    starting: BTreeMap<u64, Names>,
    starts: u64,
    running: BTreeMap<u32, Arc<Record>>,
    /// Ended, and their output is kept; the oldest first.
    ended: VecDeque<Arc<Record>>,
    /// Ended before those; only that is kept.
    faded: VecDeque<Arc<Record>>,
    faded_names: usize,
}

impl Inner {
    /// All of them, those first that are to be found first.
    fn all(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.running.values().rev().chain(self.ended.iter().rev()).chain(self.faded.iter().rev())
    }

    fn is_taken(&self, tag: &str) -> bool {
        let is_it = |names: &Names| names.tag.as_deref() == Some(tag);
        self.starting.values().any(is_it) || self.running.values().any(|record| is_it(&record.names))
    }

    /// Keeps only the end of a process.
    fn fade(&mut self, record: Arc<Record>) {
        record.fade();
        self.faded_names += record.names.bytes();
        self.faded.push_back(record);
        while self.faded.len() > ENDED_COUNT || self.faded_names > ENDED_NAMES {
            let Some(oldest) = self.faded.pop_front() else { break };
            self.faded_names -= oldest.names.bytes();
        }
    }
}

/// What a start may do.
pub(crate) enum Claim {
    /// Make a process of these names.
    New(Claimed),
    /// Nothing: its operation has made this one.
    Known(Arc<Record>),
}

/// Names that nobody else may start with; dropping it gives them back.
pub(crate) struct Claimed {
    table: Arc<Table>,
    id: u64,
}

impl Drop for Claimed {
    fn drop(&mut self) {
        self.table.lock().starting.remove(&self.id);
        self.table.settled.notify_waiters();
    }
}

impl Table {
    /// An empty table on a machine with so many bytes of memory.
    pub(crate) fn new(groups: Groups, memory: u64) -> Self {
        Self {
            inner: Mutex::default(),
            settled: Notify::new(),
            ever: AtomicBool::new(false),
            groups,
            tasks: TaskTracker::new(),
            budget: usize::try_from(memory / 8).unwrap_or(usize::MAX),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether user code was ever started.
    pub(crate) fn was_used(&self) -> bool {
        self.ever.load(Ordering::Relaxed)
    }

    /// Claims the names of a process that is to be started. The tag is refused while another lives by it; an operation
    /// that is being carried out is waited for.
    pub(crate) async fn claim(self: &Arc<Self>, names: &Names) -> Result<Claim, AgentError> {
        loop {
            // It hears of everything that settles from here on.
            let settled = self.settled.notified();
            if let Some(claim) = self.try_claim(names)? {
                return Ok(claim);
            }
            settled.await;
        }
    }

    fn try_claim(self: &Arc<Self>, names: &Names) -> Result<Option<Claim>, AgentError> {
        let mut inner = self.lock();
        if let Some(operation) = &names.operation {
            let is_it = |names: &Names| names.operation.as_ref() == Some(operation);
            if let Some(known) = inner.all().find(|record| is_it(&record.names)) {
                return Ok(Some(Claim::Known(Arc::clone(known))));
            }
            if inner.starting.values().any(is_it) {
                return Ok(None);
            }
        }
        if let Some(tag) = &names.tag
            && inner.is_taken(tag)
        {
            return Err(AgentError::TagTaken(tag.clone()));
        }
        let id = inner.starts;
        inner.starts += 1;
        inner.starting.insert(id, names.clone());
        Ok(Some(Claim::New(Claimed { table: Arc::clone(self), id })))
    }

    /// How much output the next process may keep, at most `wanted` for everybody; refuses when too many run, and
    /// while user code stands still.
    pub(crate) fn admit(&self, wanted: usize) -> Result<Room, AgentError> {
        if self.groups.freezer.is_frozen() {
            return Err(AgentError::Frozen);
        }
        let running = self.lock().running.len();
        if running >= RUNNING_LIMIT {
            return Err(AgentError::Limit(format!("{RUNNING_LIMIT} processes run already; wait for one or kill one")));
        }
        self.ever.store(true, Ordering::Relaxed);
        let share = self.budget / (running + 1);
        let capacity = share.min(wanted).max(RING_LEAST);
        Ok(Room { capacity, slack: share.saturating_sub(capacity).min(SLACK) })
    }

    /// Adds a process that runs, while its names are claimed.
    pub(crate) fn add(&self, record: Arc<Record>) {
        self.lock().running.insert(record.pid, record);
    }

    /// Moves a process to the ended ones; of the oldest of those only the end is kept when there is too much.
    pub(crate) fn end(&self, record: &Arc<Record>) {
        let mut inner = self.lock();
        inner.running.remove(&record.pid);
        inner.ended.push_back(Arc::clone(record));
        let mut bytes: usize = inner.ended.iter().map(|ended| ended.output().0).sum();
        while inner.ended.len() > 1 && (bytes > OUTPUT_BYTES || inner.ended.len() > OUTPUT_COUNT) {
            let Some(oldest) = inner.ended.pop_front() else { break };
            bytes -= oldest.output().0;
            inner.fade(oldest);
        }
    }

    /// Keeps only the end of an ended process.
    pub(crate) fn fade(&self, record: &Arc<Record>) {
        let mut inner = self.lock();
        let at = inner.ended.iter().position(|ended| Arc::ptr_eq(ended, record));
        if let Some(record) = at.and_then(|at| inner.ended.remove(at)) {
            inner.fade(record);
        }
    }

    /// The processes that run.
    pub(crate) fn running(&self) -> Vec<Arc<Record>> {
        self.lock().running.values().cloned().collect()
    }

    /// Finds a process, ended ones included. Of several with a pid or a tag, a running one
    /// comes first, then the one that ended last.
    pub(crate) fn find(&self, selector: &Selector) -> Result<Arc<Record>, AgentError> {
        let inner = self.lock();
        let mut all = inner.all();
        let found = match selector {
            Selector::Pid(pid) => all.find(|record| record.pid == *pid),
            Selector::Tag(tag) => all.find(|record| record.names.tag.as_ref() == Some(tag)),
        };
        found.cloned().ok_or_else(|| {
            AgentError::NoProcess(match selector {
                Selector::Pid(pid) => pid.to_string(),
                Selector::Tag(tag) => format!("with tag `{tag}`"),
            })
        })
    }

    /// Finds a process that still runs.
    pub(crate) fn find_running(&self, selector: &Selector) -> Result<Arc<Record>, AgentError> {
        let record = self.find(selector)?;
        if record.has_ended() {
            return Err(AgentError::NoProcess(record.pid.to_string()));
        }
        Ok(record)
    }
}
