//! All processes that were started here: the running ones, and for half a minute the
//! ended ones, so that a late reader still learns how it went.
//!
//! How it works: one map under one lock; memory for output is shared out by how many run, and ended ones go by age,
//! number and size.
//!
//! Deliberately absent: processes that user code started by itself.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio_util::task::TaskTracker;

use super::record::Record;
use crate::{cgroup::Groups, error::AgentError};

/// How many processes may run at once through the agent.
const RUNNING_LIMIT: usize = 1024;
/// How much output of ended processes is kept, and of how many.
const ENDED_BYTES: usize = 8 << 20;
const ENDED_COUNT: usize = 256;
/// How much output of one process is kept when many run.
const RING_LEAST: usize = 64 << 10;

/// Which process is meant.
#[derive(Debug, Clone)]
pub(crate) enum Selector {
    Pid(u32),
    Tag(String),
}

/// The processes of this agent.
pub(crate) struct Table {
    inner: Mutex<Inner>,
    ever: AtomicBool,
    pub(crate) groups: Groups,
    pub(crate) tasks: TaskTracker,
    /// What all rings together may take, in bytes.
    budget: usize,
}

#[derive(Default)]
struct Inner {
    running: BTreeMap<u32, Arc<Record>>,
    ended: VecDeque<Arc<Record>>,
}

impl Table {
    /// An empty table on a machine with so many bytes of memory.
    pub(crate) fn new(groups: Groups, memory: u64) -> Self {
        Self {
            inner: Mutex::default(),
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

    /// How much output the next process may keep, at most `wanted`; refuses when too many run, and
    /// while user code stands still.
    pub(crate) fn admit(&self, wanted: usize) -> Result<usize, AgentError> {
        if self.groups.freezer.is_frozen() {
            return Err(AgentError::Frozen);
        }
        let running = self.lock().running.len();
        if running >= RUNNING_LIMIT {
            return Err(AgentError::Limit(format!("{RUNNING_LIMIT} processes run already; wait for one or kill one")));
        }
        self.ever.store(true, Ordering::Relaxed);
        Ok((self.budget / (running + 1)).min(wanted).max(RING_LEAST))
    }

    pub(crate) fn add(&self, record: Arc<Record>) {
        let mut inner = self.lock();
        // A pid that comes again is another process.
        inner.ended.retain(|ended| ended.pid != record.pid);
        inner.running.insert(record.pid, record);
    }

    /// Moves a process to the ended ones, and forgets the oldest of those.
    pub(crate) fn end(&self, record: &Arc<Record>) {
        let mut inner = self.lock();
        inner.running.remove(&record.pid);
        inner.ended.push_back(Arc::clone(record));
        let mut bytes: usize = inner.ended.iter().map(|ended| ended.output().0).sum();
        while inner.ended.len() > 1 && (bytes > ENDED_BYTES || inner.ended.len() > ENDED_COUNT) {
            if let Some(oldest) = inner.ended.pop_front() {
                bytes -= oldest.output().0;
            }
        }
    }

    /// Forgets an ended process.
    pub(crate) fn forget(&self, record: &Arc<Record>) {
        self.lock().ended.retain(|ended| !Arc::ptr_eq(ended, record));
    }

    /// The processes that run.
    pub(crate) fn running(&self) -> Vec<Arc<Record>> {
        self.lock().running.values().cloned().collect()
    }

    /// Finds a process, ended ones included. Of several with a tag, a running one
    /// comes first, then the one that ended last.
    pub(crate) fn find(&self, selector: &Selector) -> Result<Arc<Record>, AgentError> {
        let inner = self.lock();
        let mut all = inner.running.values().rev().chain(inner.ended.iter().rev());
        let found = match selector {
            Selector::Pid(pid) => all.find(|record| record.pid == *pid),
            Selector::Tag(tag) => all.find(|record| record.tag.as_ref() == Some(tag)),
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
