//! Ending a sandbox.
//!
//! How it works: the intent is written down, then a task of the control plane's own asks the host. Only when the host says that
//! nothing is left (or that it never had it) does the record become `stopped`, together with its audit row; any other answer
//! goes back to the caller and the record stays as it was. What is over already is ended without a second row.
//!
//! Deliberately absent: undoing.

use atoll_domain::access::Action;
use atoll_domain::audit::AuditAction;
use atoll_domain::happening::HappeningKind;
use atoll_domain::host::{Call, HostError};
use atoll_domain::record::Sandbox;
use atoll_domain::{Incarnation, Principal, SandboxStatus};
use atoll_store::{OperationKind, Step};

use crate::control::Busy;
use crate::{Control, ControlError};

/// The life that a destroy is about: that of a paused one may have begun already, and a destroy wins over a resume.
pub(crate) fn last_life(sandbox: &Sandbox) -> Incarnation {
    match sandbox.status {
        SandboxStatus::Paused => Incarnation(sandbox.incarnation.0 + 1),
        _ => sandbox.incarnation,
    }
}

impl Control {
    /// Ends a sandbox of the principal's team; one that is over already is no error.
    ///
    /// # Errors
    /// Not found, or what the host says.
    pub async fn destroy_sandbox(&self, principal: &Principal, id: &str) -> Result<(), ControlError> {
        Self::authorise(principal, Action::UseSandboxes)?;
        let sandbox = self.owned(principal, id).await?;
        if sandbox.status.is_over() {
            return Ok(());
        }
        let busy = self.busy(&sandbox.id);
        let (control, principal) = (self.clone(), principal.clone());
        let task = self.spawn(async move { control.carry_out_destroy(&principal, &sandbox, busy).await });
        task.await.map_err(|_| ControlError::Stopping)?
    }

    async fn carry_out_destroy(
        &self,
        principal: &Principal,
        sandbox: &Sandbox,
        _busy: Busy,
    ) -> Result<(), ControlError> {
        let call = Self::call(last_life(sandbox))?;
        let tx = self.store().begin(Step::DestroyIntent).await?;
        tx.begin_operation(&call, &sandbox.id, OperationKind::Destroy, self.now()).await?;
        tx.note_asker(&call.operation, principal).await?;
        tx.commit().await?;
        self.finish_destroy(principal, sandbox, &call, Step::DestroyDone).await
    }

    /// The call to the host and its outcome; the intent is written down.
    pub(crate) async fn finish_destroy(
        &self,
        principal: &Principal,
        sandbox: &Sandbox,
        call: &Call,
        step: Step,
    ) -> Result<(), ControlError> {
        let kept = self.last_metrics(sandbox).await;
        let answer = self.driver().destroy(call.clone(), sandbox.id.clone()).await;
        if let Err(error) = &answer
            && step == Step::OperationResumed
            && error.is_no_answer()
        {
            // Nobody waits who would ask again: the call stays open.
            return Ok(answer.map(drop)?);
        }
        let now = self.now();
        let tx = self.store().begin(step).await?;
        if answer.is_ok() {
            let reason = "destroyed";
            if tx.mark_over(&sandbox.id, call.incarnation, SandboxStatus::Stopped, reason, now).await? {
                tx.audit(&self.audit(principal, AuditAction::SandboxDestroy, sandbox)).await?;
                tx.insert_metric_points(&sandbox.id, &kept).await?;
                tx.drop_fine_metric_points(&sandbox.id).await?;
                tx.happened(&sandbox.id, &self.happening(sandbox, HappeningKind::Destroyed, None)).await?;
            }
        }
        tx.finish_operation(&call.operation, now).await?;
        tx.commit().await?;
        answer.map_err(|error| match error {
            // Destroy wins over every state, so this is the host's failure and not the asker's.
            HostError::WrongState { state } => HostError::Failed(format!("a destroy was refused: {state}")),
            other => other,
        })?;
        self.forget(&sandbox.id);
        Ok(())
    }
}
