//! Putting a sandbox on its host's disk.
//!
//! How it works: the intent is written down, a task of the control plane's own asks the host, and what came of it is a second
//! transaction: the state, the audit row, a line of its history and everything that it used, in one. Whoever asks while a pause is
//! under way joins it on the host; a paused one answers what is kept. What a host pauses by itself is written down by the same
//! function.
//!
//! Deliberately absent: whether it may be paused now; the host knows.

use std::time::{Duration, Instant};

use atoll_domain::access::Action;
use atoll_domain::audit::AuditAction;
use atoll_domain::happening::{Happening, HappeningKind};
use atoll_domain::host::{HostError, HostSandboxState, PauseMode};
use atoll_domain::metrics::Joined;
use atoll_domain::record::{Paused, Sandbox};
use atoll_domain::ttl::Cause;
use atoll_domain::{Incarnation, Invalid, Principal, SandboxStatus};
use atoll_store::{OperationKind, Step, WriteTransaction};

use super::exec::gone;
use crate::control::Busy;
use crate::{Control, ControlError};

/// A sandbox that is paused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PausedSandbox {
    /// The sandbox.
    pub sandbox: Sandbox,
    /// How long the pause took; none when it was paused before.
    pub took: Option<Duration>,
}

/// What a host paused by itself, or what was found paused.
pub(crate) struct FoundPaused<'a> {
    /// As it was known.
    pub(crate) sandbox: &'a Sandbox,
    /// In which life of it.
    pub(crate) incarnation: Incarnation,
    /// What is kept.
    pub(crate) paused: &'a Paused,
    /// Which of its limits it was.
    pub(crate) cause: Option<Cause>,
    /// All that it used, if its host said it.
    pub(crate) used: Option<&'a [Joined]>,
}

/// Reads a mode; absent means memory.
pub(crate) fn mode(text: Option<&str>) -> Result<PauseMode, Invalid> {
    match text {
        None | Some("") => Ok(PauseMode::Memory),
        Some(text) => PauseMode::parse(text).ok_or_else(|| Invalid::new("mode", "unknown", "use `memory` or `disk`")),
    }
}

/// Whether a host's no is about the state that a sandbox is in, and no failure.
pub(crate) fn is_refusal(error: &HostError) -> bool {
    matches!(
        error,
        HostError::WrongState { .. } | HostError::NotFound | HostError::Unavailable(_) | HostError::Stopping
    )
}

impl Control {
    /// Pauses a sandbox, with its memory (the default) or its disk alone; answers when no VM of it is left. One that is paused already is no
    /// error and stays as it is.
    ///
    /// # Errors
    /// Not found, neither running nor paused, on its way back, or what the host says.
    pub async fn pause_sandbox(
        &self,
        principal: &Principal,
        id: &str,
        mode_text: Option<&str>,
    ) -> Result<PausedSandbox, ControlError> {
        Self::authorise(principal, Action::UseSandboxes)?;
        let mode = mode(mode_text)?;
        let sandbox = self.owned(principal, id).await?;
        match sandbox.status {
            SandboxStatus::Paused => {
                self.nothing_under_way(&sandbox).await?;
                Ok(PausedSandbox { sandbox, took: None })
            }
            SandboxStatus::Running => {
                let busy = self.busy(&sandbox.id);
                let (control, principal) = (self.clone(), principal.clone());
                let task = self.spawn(async move { control.carry_out_pause(&principal, sandbox, mode, busy).await });
                task.await.map_err(|_| ControlError::Stopping)?
            }
            status => Err(ControlError::NotRunning { id: id.to_owned(), status }),
        }
    }

    /// Refuses with the state when the host is at work on a sandbox. A host that cannot be asked leaves the record to count.
    pub(crate) async fn nothing_under_way(&self, sandbox: &Sandbox) -> Result<HostSandboxState, ControlError> {
        let recorded = match sandbox.status {
            SandboxStatus::Paused => HostSandboxState::Paused,
            _ => HostSandboxState::Running,
        };
        let state = match self.driver().inspect(sandbox.id.clone()).await {
            Ok(facts) => facts.state,
            Err(_) => recorded,
        };
        let name = match state {
            HostSandboxState::Running | HostSandboxState::Paused => return Ok(state),
            HostSandboxState::Starting => "starting",
            HostSandboxState::Pausing => "pausing",
            HostSandboxState::Resuming => "resuming",
            HostSandboxState::Stopping => "stopping",
            HostSandboxState::Stuck => "stuck",
        };
        Err(HostError::WrongState { state: name.into() }.into())
    }

    async fn carry_out_pause(
        &self,
        principal: &Principal,
        sandbox: Sandbox,
        mode: PauseMode,
        _busy: Busy,
    ) -> Result<PausedSandbox, ControlError> {
        let call = Self::call(sandbox.incarnation)?;
        let tx = self.store().begin(Step::PauseIntent).await?;
        tx.begin_operation(&call, &sandbox.id, OperationKind::Pause, self.now()).await?;
        tx.commit().await?;
        let began = Instant::now();
        let answer = self.driver().pause(call.clone(), sandbox.id.clone(), mode).await;
        let took = began.elapsed();
        let used = if answer.is_ok() { self.used_so_far(&sandbox).await } else { None };
        self.limit_first().await;
        let now = self.now();
        let tx = self.store().begin(Step::PauseDone).await?;
        match &answer {
            Ok(paused) => {
                if tx.mark_paused(&sandbox.id, sandbox.incarnation, paused, now).await? {
                    self.keep_used(&tx, &sandbox, used.as_deref()).await?;
                    tx.audit(&self.audit(principal, AuditAction::SandboxPause, &sandbox)).await?;
                    let disk_alone = paused.generation.is_none().then(|| "its disk alone".to_owned());
                    tx.happened(&sandbox.id, &self.happening(&sandbox, HappeningKind::Paused, disk_alone)).await?;
                }
            }
            Err(error) if is_refusal(error) => {}
            Err(error) => {
                tx.audit(&self.audit(principal, AuditAction::SandboxPauseFailed, &sandbox)).await?;
                let why = Some(error.told());
                tx.happened(&sandbox.id, &self.happening(&sandbox, HappeningKind::PauseFailed, why)).await?;
            }
        }
        tx.finish_operation(&call.operation, now).await?;
        tx.commit().await?;
        answer.map_err(|error| gone(&sandbox.id, error))?;
        let sandbox = self.store().sandbox(&sandbox.id).await?.unwrap_or(sandbox);
        match sandbox.status {
            SandboxStatus::Paused => Ok(PausedSandbox { sandbox, took: Some(took) }),
            // Destroyed, or resumed again, before this could be said.
            status => Err(ControlError::NotRunning { id: sandbox.id.to_string(), status }),
        }
    }

    /// Lets a host that has paused a sandbox by itself say which limit it was; whoever finds it paused could only say that it is so.
    pub(crate) async fn limit_first(&self) {
        if let Err(error) = crate::background::caught_up(self).await {
            tracing::warn!(%error, "a host does not say what it told; what is known without it counts");
        }
    }

    /// Writes down what a host paused by itself; answers false when that was known.
    pub(crate) async fn note_found_paused(
        &self,
        tx: &WriteTransaction,
        found: FoundPaused<'_>,
    ) -> Result<bool, ControlError> {
        let FoundPaused { sandbox, incarnation, paused, cause, used } = found;
        if !tx.mark_paused(&sandbox.id, incarnation, paused, self.now()).await? {
            return Ok(false);
        }
        self.keep_used(tx, sandbox, used).await?;
        let mut row = self.audit(&Principal::System, AuditAction::SandboxAutoPause, sandbox);
        let why = cause.map(|cause| cause.as_str().to_owned());
        row.metadata.extend(why.clone().map(|why| ("reason".to_owned(), why)));
        tx.audit(&row).await?;
        let line = |kind, reason| Happening { at: self.now(), incarnation, kind, reason };
        if why.is_some() {
            tx.happened(&sandbox.id, &line(HappeningKind::Expired, why)).await?;
        }
        tx.happened(&sandbox.id, &line(HappeningKind::Paused, None)).await?;
        Ok(true)
    }
}
