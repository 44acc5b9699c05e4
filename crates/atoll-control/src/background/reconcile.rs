//! Brings what is written down and what the host has together.
//!
//! How it works: the records are read first and the host is asked afterwards, and what has a call under way is left out on both sides,
//! so that something made in between is never taken for something lost. What to do with each is the domain's rule. With an outcome the
//! calls are closed that were open before the host was asked; one that began since is under way, and has its own end.
//!
//! Deliberately absent: a host that does not answer changes nothing.

use std::collections::BTreeMap;

use atoll_domain::audit::AuditAction;
use atoll_domain::happening::{Happening, HappeningKind};
use atoll_domain::host::{HostSandboxState, SandboxFacts};
use atoll_domain::reconcile::{Observed, Remedy, remedy};
use atoll_domain::record::{Paused, Sandbox};
use atoll_domain::{Principal, SandboxId, SandboxStatus};

use atoll_store::{Operation, OperationKind, Step, WriteTransaction};

use crate::sandboxes::{FoundPaused, lost};
use crate::{Control, ControlError};

/// What an activation did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Marked as running.
    pub running: Vec<SandboxId>,
    /// Marked as paused.
    pub paused: Vec<SandboxId>,
    /// Marked as running again.
    pub resumed: Vec<SandboxId>,
    /// Marked as stopped or failed.
    pub over: Vec<SandboxId>,
    /// Ended on the host.
    pub destroyed: Vec<SandboxId>,
}

/// Compares and mends once.
///
/// # Errors
/// A failing database, or a host that does not answer.
pub async fn activate(control: &Control) -> Result<Status, ControlError> {
    let mut busy = control.busy_ones();
    // A destroy that an earlier Atoll began is finished as one, by who asked for it ([`super::operations`]); here it would only be an end.
    let open = control.store().open_operations().await?;
    busy.extend(open.iter().filter(|open| open.kind == OperationKind::Destroy).map(|open| open.sandbox.clone()));
    let mut records: BTreeMap<SandboxId, Sandbox> = BTreeMap::new();
    for sandbox in control.store().sandboxes_on(control.own_host()).await? {
        records.insert(sandbox.id.clone(), sandbox);
    }
    let listed = control.driver().list().await?;
    // What began meanwhile is under way too.
    busy.extend(control.busy_ones());
    let mut status = Status::default();
    for facts in &listed {
        if !busy.contains(&facts.id) && !records.contains_key(&facts.id) {
            // Over, or never known; the record is read now, after the host was asked.
            if let Some(sandbox) = control.store().sandbox(&facts.id).await? {
                records.insert(facts.id.clone(), sandbox);
            }
        }
    }
    let mut observed: BTreeMap<SandboxId, _> = listed.into_iter().map(|facts| (facts.id.clone(), facts)).collect();
    let missing = |record: &Sandbox| !record.status.is_over() && !observed.contains_key(&record.id);
    if records.values().any(missing) {
        // A host tells of an end before it takes the sandbox off its list, and says why; what is marked then stays as it is.
        super::host_events::caught_up(control).await?;
    }
    let ids: Vec<SandboxId> = records.keys().chain(observed.keys()).cloned().collect();
    for id in ids {
        if busy.contains(&id) {
            continue;
        }
        let (record, facts) = (records.remove(&id), observed.remove(&id));
        let known = record.as_ref().map(|s| (s.status, s.incarnation));
        let seen = facts.as_ref().map(|f| Observed { state: f.state, incarnation: f.incarnation });
        let now = control.now();
        match (remedy(known, seen), &record, facts) {
            (Remedy::MarkRunning, Some(sandbox), Some(facts)) => {
                let tx = control.store().begin(Step::ReconcileRunning).await?;
                if tx.mark_running(&facts, now).await? {
                    close(&tx, &open, &sandbox.id, now).await?;
                    status.running.push(id.clone());
                }
                tx.commit().await?;
            }
            (Remedy::MarkPaused, Some(sandbox), Some(facts)) => {
                paused(control, sandbox, &facts, &open, &mut status).await?;
            }
            (Remedy::MarkResumed, Some(sandbox), Some(facts)) => {
                resumed(control, sandbox, &facts, &open, &mut status).await?;
            }
            (Remedy::MarkStopped, Some(sandbox), _) => {
                over(control, sandbox, SandboxStatus::Stopped, &open, &mut status).await?;
            }
            (Remedy::MarkError, Some(sandbox), _) => {
                over(control, sandbox, SandboxStatus::Error, &open, &mut status).await?;
            }
            (Remedy::Destroy, _, Some(facts)) => {
                tracing::warn!(sandbox.id = %id, "the host has a sandbox that nobody wants; ending it");
                match control.driver().destroy(Control::call(facts.incarnation)?, id.clone()).await {
                    Ok(_) => {
                        // Of one that runs the next round says that it is gone; a paused one would be waited for.
                        let stuck = facts.state == HostSandboxState::Stuck;
                        let paused = |sandbox: &&Sandbox| stuck && sandbox.status == SandboxStatus::Paused;
                        if let Some(sandbox) = record.as_ref().filter(paused) {
                            over(control, sandbox, SandboxStatus::Stopped, &open, &mut status).await?;
                        }
                        status.destroyed.push(id);
                    }
                    // The others are not to suffer from it; the next round tries again.
                    Err(error) => tracing::error!(sandbox.id = %id, %error, "it could not be ended"),
                }
            }
            (Remedy::Nothing, Some(sandbox), Some(facts)) => {
                // A resume gave the memory up, and nobody was there to write that down.
                if let Some((incarnation, kept)) = lost(sandbox, &facts) {
                    let tx = control.store().begin(Step::ReconcilePaused).await?;
                    tx.note_kept(&id, incarnation, kept, now).await?;
                    tx.commit().await?;
                }
            }
            _ => {}
        }
    }
    Ok(status)
}

/// Closes the calls of a sandbox whose outcome was just written down, of those that were open before the host was asked: what was under
/// way then is busy, so these were cut off. Calls of other kinds are carried out, or made again, by [`super::operations`].
async fn close(tx: &WriteTransaction, open: &[Operation], id: &SandboxId, now: i64) -> Result<(), ControlError> {
    let settled = [OperationKind::Create, OperationKind::Pause, OperationKind::Resume];
    for call in open.iter().filter(|call| call.sandbox == *id && settled.contains(&call.kind)) {
        tx.finish_operation(&call.id, now).await?;
    }
    Ok(())
}

/// A pause whose outcome was lost: what the host says is kept.
async fn paused(
    control: &Control,
    sandbox: &Sandbox,
    facts: &SandboxFacts,
    open: &[Operation],
    status: &mut Status,
) -> Result<(), ControlError> {
    // What the host tells by itself says which limit it was; a comparison could only say that it is so.
    super::host_events::caught_up(control).await?;
    let unknown = Paused { at: control.now(), generation: None, quiesced: false, bytes: 0, memory_lost: false };
    let kept = facts.paused.as_ref().unwrap_or(&unknown);
    let used = control.used_so_far(sandbox).await;
    let tx = control.store().begin(Step::ReconcilePaused).await?;
    let used = used.as_deref();
    let found = FoundPaused { sandbox, incarnation: facts.incarnation, paused: kept, cause: None, used };
    if control.note_found_paused(&tx, found).await? {
        close(&tx, open, &sandbox.id, control.now()).await?;
        status.paused.push(sandbox.id.clone());
    }
    tx.commit().await?;
    Ok(())
}

/// A resume whose outcome was lost: the host runs a later life.
async fn resumed(
    control: &Control,
    sandbox: &Sandbox,
    facts: &SandboxFacts,
    open: &[Operation],
    status: &mut Status,
) -> Result<(), ControlError> {
    let now = control.now();
    let tx = control.store().begin(Step::ReconcileResumed).await?;
    if tx.mark_resumed(facts, now).await? {
        tx.audit(&control.audit(&Principal::System, AuditAction::SandboxResume, sandbox)).await?;
        let line = Happening { at: now, incarnation: facts.incarnation, kind: HappeningKind::Resumed, reason: None };
        tx.happened(&sandbox.id, &line).await?;
        close(&tx, open, &sandbox.id, now).await?;
        status.resumed.push(sandbox.id.clone());
    }
    tx.commit().await?;
    Ok(())
}

async fn over(
    control: &Control,
    sandbox: &Sandbox,
    to: SandboxStatus,
    open: &[Operation],
    status: &mut Status,
) -> Result<(), ControlError> {
    let (action, kind) = if to == SandboxStatus::Error {
        (AuditAction::SandboxCreateFailed, HappeningKind::Failed)
    } else {
        (AuditAction::SandboxEnded, HappeningKind::Ended)
    };
    let now = control.now();
    let tx = control.store().begin(Step::ReconcileOver).await?;
    let why = "not on its host any more";
    if tx.mark_over(&sandbox.id, sandbox.incarnation, to, why, now).await? {
        tx.happened(&sandbox.id, &control.happening(sandbox, kind, Some(why.into()))).await?;
        tx.audit(&control.audit(&Principal::System, action, sandbox)).await?;
        close(&tx, open, &sandbox.id, now).await?;
        status.over.push(sandbox.id.clone());
    }
    tx.commit().await?;
    control.forget(&sandbox.id);
    Ok(())
}
