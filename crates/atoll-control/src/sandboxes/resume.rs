//! Letting a paused sandbox go on: because somebody asks for it, or because somebody uses one that says so (`auto_resume`).
//!
//! How it works: whoever asks while a resume is under way joins it; the one who leads has a task of the control plane's own, so that a
//! client that goes away changes nothing. The intent names the next life; only when the host says that it runs does the record
//! take that life over. A resume that fails leaves what is kept as it was; where its guest had begun to run, the memory is lost, and the
//! record says so from then on. A use that fails to resume it says nothing when the last try failed for the same cause.
//!
//! Deliberately absent: falling back to the disk alone. That is asked for with mode `disk`, because it gives the memory up.

use atoll_domain::access::Action;
use atoll_domain::audit::AuditAction;
use atoll_domain::happening::{Happening, HappeningKind};
use atoll_domain::host::{Call, HostError, HostSandboxState, PauseMode, ResumeSandbox, SandboxFacts};
use atoll_domain::record::{Paused, Sandbox};
use atoll_domain::{Incarnation, Principal, SandboxStatus};
use atoll_store::{OperationKind, Step};

use super::exec::gone;
use super::pause::{FoundPaused, is_refusal, mode};
use crate::{Control, ControlError};

/// Why a sandbox is resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Because {
    /// Somebody asked for it.
    Asked(PauseMode),
    /// Somebody uses it.
    Used,
}

impl Control {
    /// Resumes a paused sandbox with its memory, or in mode `disk` by booting from its disk; answers when its agent does. One that runs
    /// already is no error.
    ///
    /// # Errors
    /// Not found, neither running nor paused, on its way to disk, a memory that cannot be used any more, an `end_at` that has passed, or
    /// what the host says.
    pub async fn resume_sandbox(
        &self,
        principal: &Principal,
        id: &str,
        mode_text: Option<&str>,
    ) -> Result<Sandbox, ControlError> {
        Self::authorise(principal, Action::UseSandboxes)?;
        let because = Because::Asked(mode(mode_text)?);
        let sandbox = self.owned(principal, id).await?;
        match sandbox.status {
            SandboxStatus::Running if self.nothing_under_way(&sandbox).await? == HostSandboxState::Running => {
                Ok(sandbox)
            }
            // Its host has paused it a moment ago.
            SandboxStatus::Running => {
                self.take_pause_in(&sandbox).await?;
                self.resumed(principal, sandbox, because).await
            }
            SandboxStatus::Paused => self.resumed(principal, sandbox, because).await,
            status => Err(ControlError::NotRunning { id: id.to_owned(), status }),
        }
    }

    /// For who is about to use a sandbox that runs by its record and resumes by itself: one that its host is pausing, or has paused without
    /// the record knowing it yet, is resumed when that is over.
    pub(crate) async fn resumed_if_paused(
        &self,
        principal: &Principal,
        sandbox: Sandbox,
    ) -> Result<Sandbox, ControlError> {
        let id = &sandbox.id;
        // First, so that its time is not over between this look and the use. A host that cannot be told, or asked, says so to the use.
        if self.driver().touch(vec![id.clone()]).await.is_err() {
            return Ok(sandbox);
        }
        match self.driver().inspect(id.clone()).await.map(|facts| facts.state) {
            Ok(HostSandboxState::Pausing) => {
                // Joins it. One that fails lets the sandbox run on.
                let joined = self.driver().pause(Self::call(sandbox.incarnation)?, id.clone(), PauseMode::Memory).await;
                if joined.is_err() {
                    return Ok(sandbox);
                }
            }
            Ok(HostSandboxState::Paused) => {}
            _ => return Ok(sandbox),
        }
        self.take_pause_in(&sandbox).await?;
        let sandbox = self.owned_again(id).await?;
        match sandbox.status {
            SandboxStatus::Running => Ok(sandbox),
            SandboxStatus::Paused => self.resumed(principal, sandbox, Because::Used).await,
            status => Err(ControlError::NotRunning { id: sandbox.id.to_string(), status }),
        }
    }

    /// Resumes a paused sandbox, or joins who does.
    pub(crate) async fn resumed(
        &self,
        principal: &Principal,
        sandbox: Sandbox,
        because: Because,
    ) -> Result<Sandbox, ControlError> {
        let id = sandbox.id.clone();
        let (wait, lead) = self.resumes().join(&id);
        if let Some(lead) = lead {
            let busy = self.busy(&id);
            let (control, principal) = (self.clone(), principal.clone());
            self.spawn(async move {
                let outcome = control.carry_out_resume(&principal, sandbox, because).await;
                drop(busy);
                lead.end(outcome);
            });
        }
        wait.outcome().await?;
        let sandbox = self.store().sandbox(&id).await?;
        let status = sandbox.as_ref().map_or(SandboxStatus::Stopped, |sandbox| sandbox.status);
        match sandbox {
            Some(sandbox) if status == SandboxStatus::Running => Ok(sandbox),
            _ => Err(ControlError::NotRunning { id: id.to_string(), status }),
        }
    }

    async fn carry_out_resume(
        &self,
        principal: &Principal,
        seen: Sandbox,
        because: Because,
    ) -> Result<(), ControlError> {
        // Whoever led before may have ended between the caller's look and this one.
        let sandbox = self.store().sandbox(&seen.id).await?.unwrap_or(seen);
        match sandbox.status {
            SandboxStatus::Running => return Ok(()),
            SandboxStatus::Paused => {}
            status => return Err(ControlError::NotRunning { id: sandbox.id.to_string(), status }),
        }
        if sandbox.lifetime.end_at.is_some_and(|end| end <= self.now()) {
            return Err(ControlError::DeadlinePassed { id: sandbox.id.to_string() });
        }
        self.end_of_its_pause(&sandbox).await?;
        let secrets = self.sealing().open(&sandbox.id, self.store().secrets(&sandbox.id).await?.as_deref())?;
        let token = secrets.token.clone();
        let call = Self::call(Incarnation(sandbox.incarnation.0 + 1))?;
        let tx = self.store().begin(Step::ResumeIntent).await?;
        tx.begin_operation(&call, &sandbox.id, OperationKind::Resume, self.now()).await?;
        tx.commit().await?;
        let request = ResumeSandbox { mode: how(&sandbox, because), secrets };
        let answer = self.driver().resume(call.clone(), sandbox.id.clone(), request).await;
        match answer {
            Ok(facts) => {
                self.remember_token(&sandbox.id, token);
                self.note_resumed(principal, &sandbox, &call, &facts, because).await
            }
            Err(error) => {
                self.note_resume_failed(principal, &sandbox, &call, because, &error).await?;
                Err(gone(&sandbox.id, error))
            }
        }
    }

    /// Waits while the host of a paused sandbox is still at the end of that pause: one that was started again goes through it once more.
    pub(crate) async fn end_of_its_pause(&self, sandbox: &Sandbox) -> Result<(), ControlError> {
        let state = self.driver().inspect(sandbox.id.clone()).await.map(|facts| facts.state);
        if matches!(state, Ok(HostSandboxState::Pausing)) {
            let call = Self::call(sandbox.incarnation)?;
            // Joins it. What is wrong with it, and with a host that cannot be asked, the resume says.
            let _ = self.driver().pause(call, sandbox.id.clone(), PauseMode::Memory).await;
        }
        Ok(())
    }

    async fn note_resumed(
        &self,
        principal: &Principal,
        sandbox: &Sandbox,
        call: &Call,
        facts: &SandboxFacts,
        because: Because,
    ) -> Result<(), ControlError> {
        let now = self.now();
        let tx = self.store().begin(Step::ResumeDone).await?;
        if tx.mark_resumed(facts, now).await? {
            let mut row = self.audit(principal, AuditAction::SandboxResume, sandbox);
            let reason = match because {
                Because::Used => Some("it was used"),
                Because::Asked(PauseMode::Disk) => Some("from its disk alone"),
                Because::Asked(PauseMode::Memory) => None,
            };
            row.metadata.extend(reason.map(|reason| ("reason".to_owned(), reason.to_owned())));
            tx.audit(&row).await?;
            let (kind, reason) = (HappeningKind::Resumed, reason.map(str::to_owned));
            tx.happened(&sandbox.id, &Happening { at: now, incarnation: facts.incarnation, kind, reason }).await?;
        }
        tx.finish_operation(&call.operation, now).await?;
        tx.commit().await?;
        match self.store().sandbox(&sandbox.id).await? {
            Some(row) if !row.status.is_over() => Ok(()),
            _ => self.end_unwanted(&sandbox.id, call.incarnation).await,
        }
    }

    async fn note_resume_failed(
        &self,
        principal: &Principal,
        sandbox: &Sandbox,
        call: &Call,
        because: Because,
        error: &HostError,
    ) -> Result<(), ControlError> {
        let now = self.now();
        // A host that cannot be asked now is by the comparison.
        let facts = self.driver().inspect(sandbox.id.clone()).await.ok();
        let tx = self.store().begin(Step::ResumeDone).await?;
        if let Some((incarnation, kept)) = facts.as_ref().and_then(|facts| lost(sandbox, facts)) {
            tx.note_kept(&sandbox.id, incarnation, kept, now).await?;
        }
        if !is_refusal(error) {
            let line = self.happening(sandbox, HappeningKind::ResumeFailed, Some(error.told()));
            let last = tx.last_happening(&sandbox.id, line.kind).await?;
            // Every request to what cannot be resumed is a try; who asks for a resume is answered in the audit log each time.
            let known = because == Because::Used && last.is_some_and(|last| line.repeats(&last));
            if !known {
                tx.audit(&self.audit(principal, AuditAction::SandboxResumeFailed, sandbox)).await?;
                tx.happened(&sandbox.id, &line).await?;
            }
        }
        tx.finish_operation(&call.operation, now).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Writes down that a host paused a sandbox, ahead of its own word about it.
    async fn take_pause_in(&self, sandbox: &Sandbox) -> Result<(), ControlError> {
        let facts = self.driver().inspect(sandbox.id.clone()).await?;
        let Some(paused) = &facts.paused else { return Ok(()) };
        self.limit_first().await;
        let used = self.used_so_far(sandbox).await;
        let tx = self.store().begin(Step::ReconcilePaused).await?;
        let used = used.as_deref();
        let found = FoundPaused { sandbox, incarnation: facts.incarnation, paused, cause: None, used };
        self.note_found_paused(&tx, found).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// What its host still keeps of a paused sandbox, if that has become less since the pause.
pub(crate) fn lost<'a>(sandbox: &Sandbox, facts: &'a SandboxFacts) -> Option<(Incarnation, &'a Paused)> {
    let (known, kept) = (sandbox.paused.as_ref()?, facts.paused.as_ref()?);
    let less = facts.state == HostSandboxState::Paused
        && facts.incarnation == sandbox.incarnation
        && known.at == kept.at
        && known != kept;
    less.then_some((facts.incarnation, kept))
}

/// Of what kept only its disk there is nothing else to be had. A memory that was lost is another matter: its owner is told first.
fn how(sandbox: &Sandbox, because: Because) -> PauseMode {
    let disk_alone = sandbox.paused.as_ref().is_some_and(|paused| paused.generation.is_none() && !paused.memory_lost);
    match because {
        _ if disk_alone => PauseMode::Disk,
        Because::Asked(mode) => mode,
        Because::Used => PauseMode::Memory,
    }
}
