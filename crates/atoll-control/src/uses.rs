//! When sandboxes are used: requests and bytes, never a socket that is merely open and never our own polls.
//!
//! How it works: a use is noted in memory, because telling the host and a commit both cost more than the use; two loops pass it on. A
//! request that is being carried out (a command that somebody waits for, a file on its way in) is a use as long as it lasts: it
//! holds an [`InUse`].
//!
//! Deliberately absent: what follows from a use; that is the host's timer.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atoll_domain::SandboxId;

#[derive(Debug, Default)]
struct State {
    /// When it was used last, until that is written down.
    at: HashMap<SandboxId, i64>,
    /// Used since the host was told last.
    untold: HashSet<SandboxId>,
    /// Requests that are being carried out.
    open: HashMap<SandboxId, u32>,
}

/// The uses of all sandboxes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Uses(Arc<Mutex<State>>);

impl Uses {
    fn state(&self) -> MutexGuard<'_, State> {
        // Under it entries are only put in and taken out.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a use.
    pub(crate) fn note(&self, id: &SandboxId, now: i64) {
        let mut state = self.state();
        state.at.insert(id.clone(), now);
        state.untold.insert(id.clone());
    }

    /// In use until the guard is dropped.
    pub(crate) fn begin(&self, id: &SandboxId, now: i64) -> InUse {
        self.note(id, now);
        *self.state().open.entry(id.clone()).or_default() += 1;
        InUse { uses: self.clone(), id: id.clone() }
    }

    /// When it was used last, if that is not written down yet.
    pub(crate) fn last(&self, id: &SandboxId) -> Option<i64> {
        self.state().at.get(id).copied()
    }

    /// It is over.
    pub(crate) fn forget(&self, id: &SandboxId) {
        let mut state = self.state();
        state.at.remove(id);
        state.untold.remove(id);
    }

    /// Those that the host is to be told of now.
    pub(crate) fn take_untold(&self, now: i64) -> Vec<SandboxId> {
        let mut state = self.state();
        let open: Vec<SandboxId> = state.open.keys().cloned().collect();
        for id in open {
            state.at.insert(id.clone(), now);
            state.untold.insert(id);
        }
        state.untold.drain().collect()
    }

    /// The host could not be told of these.
    pub(crate) fn put_back(&self, ids: Vec<SandboxId>) {
        self.state().untold.extend(ids);
    }

    /// What is to be written down now.
    pub(crate) fn take_unwritten(&self) -> Vec<(SandboxId, i64)> {
        self.state().at.drain().collect()
    }
}

/// A request about a sandbox that is being carried out.
#[derive(Debug)]
pub struct InUse {
    uses: Uses,
    id: SandboxId,
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut state = self.uses.state();
        if let Some(count) = state.open.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                state.open.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_as_long_as_it_lasts_and_a_use_once() {
        let (uses, one, other) = (Uses::default(), SandboxId::from_random([1; 16]), SandboxId::from_random([2; 16]));
        let lasting = uses.begin(&one, 10);
        uses.note(&other, 11);
        let mut told = uses.take_untold(12);
        told.sort();
        assert_eq!(told, [one.clone(), other.clone()]);
        assert_eq!(uses.take_untold(13), std::slice::from_ref(&one), "it is still being carried out");
        assert_eq!((uses.last(&one), uses.last(&other)), (Some(13), Some(11)));
        drop(lasting);
        assert!(uses.take_untold(14).is_empty());
        uses.put_back(vec![other.clone()]);
        uses.forget(&other);
        assert!(uses.take_untold(15).is_empty());
        assert_eq!(uses.take_unwritten(), [(one, 13)]);
    }
}
