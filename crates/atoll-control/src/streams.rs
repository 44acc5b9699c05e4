//! How many streams, and calls to its agent, each sandbox has open.
//!
//! How it works: each holds a [`StreamPermit`] as long as it lives; beyond the bound a new one is refused here, before the agent would have
//! to: it takes 1,024 connections of its host, and a session has at most two and what it asks for in passing.
//!
//! Deliberately absent: what flows over them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atoll_domain::SandboxId;

use crate::ControlError;

/// Most streams of one sandbox at once.
pub const MAX_STREAMS: u32 = 256;
/// Most callers of one sandbox's agent at once, those of its streams included.
pub const MAX_CALLS: u32 = 512;

type Counts = Arc<Mutex<HashMap<SandboxId, u32>>>;

fn held(counts: &Counts) -> MutexGuard<'_, HashMap<SandboxId, u32>> {
    // Every change is one step; a panic leaves the map whole.
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The streams of all sandboxes, or the calls.
#[derive(Debug)]
pub(crate) struct Streams {
    counts: Counts,
    what: &'static str,
    limit: u32,
}

impl Streams {
    /// Bounded for sessions.
    pub(crate) fn sessions() -> Self {
        Self { counts: Counts::default(), what: "streams of this sandbox", limit: MAX_STREAMS }
    }

    /// Bounded for calls.
    pub(crate) fn calls() -> Self {
        Self { counts: Counts::default(), what: "requests to this sandbox at once", limit: MAX_CALLS }
    }

    /// Lets one more stream in.
    pub(crate) fn open(&self, id: &SandboxId) -> Result<StreamPermit, ControlError> {
        let mut counts = held(&self.counts);
        let count = counts.entry(id.clone()).or_default();
        if *count >= self.limit {
            return Err(ControlError::TooMany { what: self.what, limit: self.limit });
        }
        *count += 1;
        Ok(StreamPermit { counts: Arc::clone(&self.counts), id: id.clone() })
    }

    /// How many there are in all.
    pub(crate) fn total(&self) -> u64 {
        held(&self.counts).values().map(|count| u64::from(*count)).sum()
    }
}

/// One stream of a sandbox; dropping it makes room.
#[derive(Debug)]
pub struct StreamPermit {
    counts: Counts,
    id: SandboxId,
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let mut counts = held(&self.counts);
        if let Some(count) = counts.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_bound_a_stream_waits_for_another_to_end() {
        let (streams, id) = (Streams::sessions(), SandboxId::from_random([1; 16]));
        let mut open: Vec<_> = (0..MAX_STREAMS).map(|_| streams.open(&id).unwrap()).collect();
        assert!(matches!(streams.open(&id), Err(ControlError::TooMany { .. })));
        assert!(streams.open(&SandboxId::from_random([2; 16])).is_ok(), "another sandbox has room");
        open.pop();
        assert!(streams.open(&id).is_ok());
        drop(open);
        assert_eq!(streams.total(), 0);
    }
}
