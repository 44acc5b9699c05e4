//! Watchers for clients that poll: made, asked and removed by id.
//!
//! How it works: a task empties each watcher into a bounded queue, from which a poll takes; removed, the task ends.
//!
//! Deliberately absent: watchers that survive a restart of the agent.

use std::{
    collections::{HashMap, VecDeque},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use atoll_proto::filesystem::FilesystemEvent;
use tokio_util::task::AbortOnDropHandle;

use super::watch::Watcher;
use crate::{console, error::AgentError};

/// How many watchers there may be.
const WATCHERS: usize = 64;
/// How many events wait for a poll; older ones are dropped.
const EVENTS: usize = 4096;

type Queue = Arc<Mutex<VecDeque<FilesystemEvent>>>;

/// The watchers of this agent.
#[derive(Default)]
pub(super) struct Watchers {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    made: u64,
    watchers: HashMap<String, Polled>,
}

/// A watcher and the task that empties it; removed, the task ends.
struct Polled {
    queue: Queue,
    _task: AbortOnDropHandle<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watchers {
    /// Makes a watcher and gives its id.
    pub(super) fn create(&self, path: PathBuf, recursive: bool) -> Result<String, AgentError> {
        let mut inner = lock(&self.inner);
        if inner.watchers.len() == WATCHERS {
            return Err(AgentError::Limit(format!("{WATCHERS} watchers exist already; remove one")));
        }
        let mut watcher = Watcher::new(path, recursive)?;
        let queue = Queue::default();
        let filled = Arc::clone(&queue);
        let task = tokio::spawn(async move {
            loop {
                match watcher.next().await {
                    Ok(event) => {
                        let mut queue = lock(&filled);
                        if queue.len() == EVENTS {
                            queue.pop_front();
                        }
                        queue.push_back(event);
                    }
                    Err(error) => return console::error(&error),
                }
            }
        });
        inner.made += 1;
        let id = format!("w{}", inner.made);
        inner.watchers.insert(id.clone(), Polled { queue, _task: AbortOnDropHandle::new(task) });
        Ok(id)
    }

    /// What has happened since the last call.
    pub(super) fn events(&self, id: &str) -> Result<Vec<FilesystemEvent>, AgentError> {
        let inner = lock(&self.inner);
        let polled = inner.watchers.get(id).ok_or_else(|| unknown(id))?;
        Ok(lock(&polled.queue).drain(..).collect())
    }

    pub(super) fn remove(&self, id: &str) -> Result<(), AgentError> {
        let removed = lock(&self.inner).watchers.remove(id);
        removed.map(drop).ok_or_else(|| unknown(id))
    }
}

fn unknown(id: &str) -> AgentError {
    let id: String = id.chars().take(64).collect();
    AgentError::NoFile(format!("watcher {id}"))
}
