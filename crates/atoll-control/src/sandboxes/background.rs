//! Starting a process and leaving it.
//!
//! How it works: the start runs in a task of the control plane's own, so that a client that goes away leaves a process that is known, or none.
//! Under an idempotency key the tag is written down first, and the start is an operation that the agent carries out once: asked for again
//! because its answer was lost, it answers with the process that it has started, also when that has ended. An agent from before it knew
//! operations is asked which process has the tag, and not asked to start again before it can no longer be busy with the first.
//!
//! Deliberately absent: waiting for the end.

use atoll_domain::{Principal, validate};
use atoll_store::{KeptRequest, KeyPlace, Step, exec_route};

use super::processes::{Operation, StartInput, Unstarted, made_tag};
use crate::once::{Claim, Done, Once};
use crate::{Control, ControlError};

/// The outcome of a start whose answer was lost.
const LOST: &str = "lost";

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

    async fn start_operation(
        &self,
        principal: &Principal,
        id: &str,
        input: StartInput,
        operation: Operation,
    ) -> Result<Done<Started>, Unstarted> {
        let session = self.try_start(principal, id, input, Some(operation)).await?;
        let started = Started { pid: session.pid, tag: session.tag.unwrap_or_default() };
        Ok(if session.known { Done::before(started) } else { Done::now(started) })
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
        let (tag, at, again) = match kept {
            None => {
                let tag = given.map_or_else(|| made_tag("proc"), Ok)?;
                // Before the key can be found: who finds it without anybody at work would take it for cut off.
                if !self.keys().begin(&claim.place, self.steady()) {
                    return Err(ControlError::InProgress);
                }
                match self.keep(&claim, &tag).await {
                    Ok(at) => (tag, at, false),
                    Err(error) => {
                        self.keys().end(&claim.place);
                        return Err(error);
                    }
                }
            }
            Some(kept) => {
                if let Some(pid) = kept.outcome.as_ref().and_then(|pid| pid.parse().ok()) {
                    return Ok(Done::before(Started { pid, tag: kept.subject }));
                }
                if let Some(found) = self.found_again(principal, id, &claim, &kept).await? {
                    return Ok(Done::before(found));
                }
                (kept.subject, kept.at, true)
            }
        };
        input.tag = Some(tag.clone());
        let operation = Operation { name: self.operation_name(&claim.place, at), again };
        let started = self.start_operation(principal, id, input, operation).await;
        let tx = self.store().begin(Step::BackgroundDone).await?;
        match &started {
            Ok(started) => tx.note_outcome(&claim.place, &started.value.pid.to_string()).await?,
            Err(Unstarted { perhaps: true, .. }) => tx.note_outcome(&claim.place, LOST).await?,
            // Of one that was asked for before, this refusal says nothing.
            Err(_) if again => {}
            Err(_) => tx.forget_request(&claim.place, &tag).await?,
        }
        tx.commit().await?;
        if !matches!(&started, Err(Unstarted { perhaps: true, .. })) {
            self.keys().end(&claim.place);
        }
        started.map_err(|unstarted| unstarted.error)
    }

    /// The process of an earlier request; none if it is to be asked for again, which is then under way here.
    async fn found_again(
        &self,
        principal: &Principal,
        id: &str,
        claim: &Claim,
        kept: &KeptRequest,
    ) -> Result<Option<Started>, ControlError> {
        let place = &claim.place;
        let is_lost = kept.outcome.is_some();
        if !is_lost && self.keys().is_busy(place, self.steady()) {
            return Err(ControlError::InProgress);
        }
        if self.knows_operations(principal, id).await? {
            if is_lost {
                self.keys().end(place);
            }
            return if self.keys().begin(place, self.steady()) { Ok(None) } else { Err(ControlError::InProgress) };
        }
        let running = self.processes(principal, id).await?;
        if let Some(found) = running.into_iter().find(|one| one.tag.as_deref() == Some(&kept.subject)) {
            // Known from now on, also when it has ended.
            let tx = self.store().begin(Step::BackgroundDone).await?;
            tx.note_outcome(place, &found.pid.to_string()).await?;
            tx.commit().await?;
            self.keys().end(place);
            return Ok(Some(Started { pid: found.pid, tag: kept.subject.clone() }));
        }
        if self.keys().begin_again(place, self.steady()) { Ok(None) } else { Err(ControlError::InProgress) }
    }

    /// Another for each time that a key is used.
    fn operation_name(&self, place: &KeyPlace, at: i64) -> String {
        self.request_key().name(&format!("{}\n{}\n{}\n{at}", place.team.as_str(), place.route, place.key))
    }

    /// Takes the key; answers when.
    async fn keep(&self, claim: &Claim, subject: &str) -> Result<i64, ControlError> {
        let tx = self.store().begin(Step::BackgroundIntent).await?;
        let at = self.key_time();
        let kept = claim.kept(subject, at);
        if !tx.keep_request(&claim.place, &kept, self.remembered_since()).await? {
            return Err(ControlError::InProgress);
        }
        tx.commit().await?;
        Ok(at)
    }
}
