//! Work that several may ask for at once and that is done once.
//!
//! How it works: who asks first leads and gets a [`Lead`]; everybody who asks before the lead ends waits for the same outcome. A lead
//! that is dropped without an outcome ends the wait with an error, so that nobody waits for a task that is gone.
//!
//! Deliberately absent: keeping outcomes. Who asks afterwards leads anew.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atoll_domain::SandboxId;
use tokio::sync::watch;

use crate::ControlError;

type Outcome = Option<Result<(), Arc<ControlError>>>;
type Waits = HashMap<SandboxId, watch::Receiver<Outcome>>;

/// What is under way, by sandbox.
#[derive(Debug, Clone, Default)]
pub(crate) struct Joined(Arc<Mutex<Waits>>);

/// Waits for an outcome.
#[derive(Debug)]
pub(crate) struct Wait(watch::Receiver<Outcome>);

/// Has to bring the outcome.
#[derive(Debug)]
pub(crate) struct Lead {
    waits: Joined,
    id: SandboxId,
    sender: watch::Sender<Outcome>,
}

impl Joined {
    fn waits(&self) -> MutexGuard<'_, Waits> {
        // Under it an entry is put in or taken out.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins what is under way, or leads.
    pub(crate) fn join(&self, id: &SandboxId) -> (Wait, Option<Lead>) {
        let mut waits = self.waits();
        if let Some(wait) = waits.get(id) {
            return (Wait(wait.clone()), None);
        }
        let (sender, receiver) = watch::channel(None);
        waits.insert(id.clone(), receiver.clone());
        (Wait(receiver), Some(Lead { waits: self.clone(), id: id.clone(), sender }))
    }
}

impl Lead {
    /// Ends it.
    pub(crate) fn end(self, outcome: Result<(), ControlError>) {
        self.sender.send_replace(Some(outcome.map_err(Arc::new)));
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.waits.waits().remove(&self.id);
    }
}

impl Wait {
    /// What came of it.
    pub(crate) async fn outcome(mut self) -> Result<(), ControlError> {
        match self.0.wait_for(Option::is_some).await.map(|outcome| outcome.clone()) {
            Ok(Some(Err(error))) => Err(error.again()),
            Ok(_) => Ok(()),
            Err(_) => Err(ControlError::Stopping),
        }
    }
}
