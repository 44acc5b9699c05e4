//! Finishes what an earlier Atoll began.
//!
//! How it works: a call that was written down and has no outcome, and that nobody in this process carries out, was cut off by a crash. A
//! destroy is carried out: it was wanted, and so are new limits. A template that was being made is dropped: nobody was told its name. A pause
//! or a resume is closed once host and record agree about it. What a paused sandbox used and its host did not say is asked for again. A
//! create that the host finished, or did not, is settled by the comparison with the host ([`super::reconcile`]); here it is only closed once
//! its sandbox is no longer pending.
//!
//! Deliberately absent: authority. Whoever asked was allowed to; the audit row names them still.

use std::collections::HashSet;

use atoll_domain::host::{Call, HostError, HostSandboxState};
use atoll_domain::record::Sandbox;
use atoll_domain::{Principal, SandboxStatus};
use atoll_store::{Operation, OperationKind, Step};

use crate::sandboxes::destroy::last_life;
use crate::{Control, ControlError};

/// Answers how many calls have their outcome now.
pub(crate) async fn activate(control: &Control) -> Result<usize, ControlError> {
    let mut settled = 0;
    for operation in orphans(control).await? {
        let sandbox = control.store().sandbox(&operation.sandbox).await?;
        match settle(control, &operation, sandbox).await {
            Ok(done) => settled += usize::from(done),
            // The others are not to suffer from it.
            Err(error) => tracing::error!(sandbox.id = %operation.sandbox, %error, "a call could not be finished"),
        }
    }
    Ok(settled)
}

/// Open calls that nobody carries out. A live call is marked busy before it is written down and until it has its outcome, so
/// one that is open before and after a look at the busy ones, and not among them, has nobody.
async fn orphans(control: &Control) -> Result<Vec<Operation>, ControlError> {
    let before = control.store().open_operations().await?;
    if before.is_empty() {
        return Ok(before);
    }
    let busy = control.busy_ones();
    let after: HashSet<_> = control.store().open_operations().await?.into_iter().map(|o| o.id).collect();
    Ok(before.into_iter().filter(|o| after.contains(&o.id) && !busy.contains(&o.sandbox)).collect())
}

async fn settle(control: &Control, operation: &Operation, sandbox: Option<Sandbox>) -> Result<bool, ControlError> {
    let wanted = sandbox.filter(|sandbox| !sandbox.status.is_over());
    match (operation.kind, wanted) {
        (OperationKind::Destroy, Some(sandbox)) => {
            tracing::info!(sandbox.id = %sandbox.id, "finishing a destroy that an earlier Atoll began");
            let _busy = control.busy(&sandbox.id);
            let call = Call { operation: operation.id.clone(), incarnation: last_life(&sandbox) };
            let asker = control.store().asked_by(&operation.id).await?.unwrap_or(Principal::System);
            control.finish_destroy(&asker, &sandbox, &call, Step::OperationResumed).await?;
            Ok(true)
        }
        (OperationKind::Create, Some(sandbox)) if sandbox.status == SandboxStatus::Pending => Ok(false),
        // Nobody heard of an answer; the comparison with the host writes down what came of it.
        (OperationKind::Pause | OperationKind::Resume, Some(sandbox)) if !agrees(control, &sandbox).await? => Ok(false),
        (OperationKind::Lifetime, Some(sandbox)) => {
            let _busy = control.busy(&sandbox.id);
            let call = Call { operation: operation.id.clone(), incarnation: sandbox.incarnation };
            control.tell_lifetime(&sandbox, &call, sandbox.limits()).await?;
            Ok(true)
        }
        // One that goes on keeps what it used, and its next pause says it.
        (OperationKind::Metrics, Some(sandbox)) if sandbox.status == SandboxStatus::Paused => {
            control.keep_used_late(&sandbox, &operation.id).await
        }
        (OperationKind::Snapshot, _) => {
            // Its name was never given to it.
            if let Some(template) = &operation.subject {
                control.driver().drop_template(template.clone()).await?;
            }
            close(control, operation).await
        }
        _ => close(control, operation).await,
    }
}

async fn close(control: &Control, operation: &Operation) -> Result<bool, ControlError> {
    let tx = control.store().begin(Step::OperationResumed).await?;
    tx.finish_operation(&operation.id, control.now()).await?;
    tx.commit().await?;
    Ok(true)
}

/// Whether a host is done with a sandbox, and has it as it is written down.
async fn agrees(control: &Control, sandbox: &Sandbox) -> Result<bool, ControlError> {
    match control.driver().inspect(sandbox.id.clone()).await {
        Err(HostError::NotFound) => Ok(true),
        Err(error) if error.is_no_answer() => Ok(false),
        Err(error) => Err(error.into()),
        Ok(facts) => Ok(match (sandbox.status, facts.state) {
            (SandboxStatus::Running, HostSandboxState::Running) => true,
            (SandboxStatus::Paused, HostSandboxState::Paused) => facts.incarnation == sandbox.incarnation,
            _ => false,
        }),
    }
}
