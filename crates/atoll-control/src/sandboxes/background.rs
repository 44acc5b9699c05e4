//! Starting a process and leaving it.
//!
//! How it works: the start runs in a task of the control plane's own, so that a client that goes away leaves a process that is known, or none.
//! Under an idempotency key the tag is written down first: a start whose outcome was lost is found again by it.
//!
//! Deliberately absent: waiting for the end.

use atoll_domain::{Principal, validate};
use atoll_store::{Step, exec_route};

use super::processes::{StartInput, made_tag};
use crate::once::{Claim, Done, Once};
use crate::{Control, ControlError};

/// A process that was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// Its pid in the guest.
    pub pid: u32,
    /// Finds it again.
    pub tag: String,
}

impl Control {
    /// Starts a process and answers once it runs.
    ///
    /// # Errors
    /// As [`Control::start_process`]; under a key also: another request had it, or the first is under way.
    pub async fn start_background(
        &self,
        principal: &Principal,
        id: &str,
        input: StartInput,
        once: Option<Once>,
    ) -> Result<Done<Started>, ControlError> {
        let (control, principal, id) = (self.clone(), principal.clone(), id.to_owned());
        let task = self.spawn(async move {
            match once {
                None => control.start_and_leave(&principal, &id, input).await.map(Done::now),
                Some(once) => control.start_once(&principal, &id, input, once).await,
            }
        });
        task.await.map_err(|_| ControlError::Stopping)?
    }

    async fn start_and_leave(
        &self,
        principal: &Principal,
        id: &str,
        input: StartInput,
    ) -> Result<Started, ControlError> {
        let session = self.start_process(principal, id, input).await?;
        Ok(Started { pid: session.pid, tag: session.tag.unwrap_or_default() })
    }

    async fn start_once(
        &self,
        principal: &Principal,
        id: &str,
        mut input: StartInput,
        once: Once,
    ) -> Result<Done<Started>, ControlError> {
        // Of whom it is not is not found, before anything is said about keys.
        let sandbox = self.running(principal, id).await?;
        let (claim, kept) = self.claim(principal, exec_route(&sandbox.id), once).await?;
        let given = input.tag.take().filter(|tag| !tag.is_empty());
        if let Some(tag) = &given {
            validate::tag(tag)?;
        }
        let tag = match kept {
            None => {
                let tag = given.map_or_else(|| made_tag("proc"), Ok)?;
                // Before the key can be found: who finds it without anybody at work would take it for cut off.
                if !self.keys().begin(&claim.place, self.steady()) {
                    return Err(ControlError::InProgress);
                }
                if let Err(error) = self.keep(&claim, &tag).await {
                    self.keys().end(&claim.place);
                    return Err(error);
                }
                tag
            }
            Some(kept) => {
                if let Some(pid) = kept.outcome.and_then(|pid| pid.parse().ok()) {
                    return Ok(Done::before(Started { pid, tag: kept.subject }));
                }
                let running = self.processes(principal, id).await?;
                if let Some(found) = running.into_iter().find(|one| one.tag.as_deref() == Some(&kept.subject)) {
                    // Known from now on, also when it has ended.
                    let tx = self.store().begin(Step::BackgroundDone).await?;
                    tx.note_outcome(&claim.place, &found.pid.to_string()).await?;
                    tx.commit().await?;
                    return Ok(Done::before(Started { pid: found.pid, tag: kept.subject }));
                }
                if !self.keys().begin_again(&claim.place, self.steady()) {
                    return Err(ControlError::InProgress);
                }
                kept.subject
            }
        };
        input.tag = Some(tag.clone());
        let started = self.start_and_leave(principal, id, input).await;
        let tx = self.store().begin(Step::BackgroundDone).await?;
        match &started {
            Ok(started) => tx.note_outcome(&claim.place, &started.pid.to_string()).await?,
            Err(_) => tx.forget_request(&claim.place, &tag).await?,
        }
        tx.commit().await?;
        self.keys().end(&claim.place);
        started.map(Done::now)
    }

    async fn keep(&self, claim: &Claim, subject: &str) -> Result<(), ControlError> {
        let tx = self.store().begin(Step::BackgroundIntent).await?;
        let kept = claim.kept(subject, self.key_time());
        if !tx.keep_request(&claim.place, &kept, self.remembered_since()).await? {
            return Err(ControlError::InProgress);
        }
        tx.commit().await?;
        Ok(())
    }
}
