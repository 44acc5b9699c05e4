//! Takes in what a host did by itself.
//!
//! How it works: events are read from the last one that is stored; each is applied together with the cursor's move, in one transaction, so
//! that it counts exactly once, and then acknowledged, so that the host may forget it. Runs until the host's stream ends. A limit that cannot
//! be kept is told once for each cause. Whoever must know what the host told until now waits with [`caught_up`].
//!
//! Deliberately absent: order among hosts.

use std::time::Duration;

use atoll_domain::audit::AuditAction;
use atoll_domain::happening::HappeningKind;
use atoll_domain::host::{HostEvent, HostEventKind};
use atoll_domain::{Principal, SandboxStatus};

use atoll_store::Step;

use crate::sandboxes::FoundPaused;
use crate::{Control, ControlError};

/// How long somebody waits for the host's events; they are stored within milliseconds, or the database does not work.
const CAUGHT_UP: Duration = Duration::from_secs(5);

/// Follows the host's stream to its end.
pub(crate) async fn activate(control: &Control) -> Result<(), ControlError> {
    let seen = control.store().events_seen(control.own_host()).await?;
    let mut events = control.driver().watch(seen).await?;
    while let Some(event) = events.recv().await {
        apply(control, &event).await?;
        control.events_seen().send_replace(event.seq);
        control.driver().acknowledge(event.seq).await?;
    }
    Ok(())
}

/// Waits until everything is stored that the host has told of by now; gives up waiting when that takes too long.
pub(crate) async fn caught_up(control: &Control) -> Result<(), ControlError> {
    let latest = control.driver().latest_event().await?;
    let mut seen = control.events_seen().subscribe();
    let stored = tokio::time::timeout(CAUGHT_UP, seen.wait_for(|seen| *seen >= latest)).await;
    if stored.is_err() {
        tracing::warn!("the host's events do not come in; what it says without them counts");
    }
    Ok(())
}

async fn apply(control: &Control, event: &HostEvent) -> Result<(), ControlError> {
    let sandbox = control.store().sandbox(&event.sandbox).await?;
    // Asked for before the transaction, which must not wait for a host.
    let used = match (&event.kind, &sandbox) {
        (HostEventKind::Paused { .. }, Some(sandbox)) if !sandbox.status.is_over() => {
            control.used_so_far(sandbox).await
        }
        _ => None,
    };
    let now = control.now();
    let tx = control.store().begin(Step::HostEvent).await?;
    if !tx.see_event(control.own_host(), event.seq).await? {
        return Ok(());
    }
    match (&event.kind, &sandbox) {
        (HostEventKind::Ended { reason }, Some(sandbox)) => {
            let ended = (SandboxStatus::Stopped, AuditAction::SandboxEnded);
            // One that nobody was told of yet never came to run for its owner; unless its create was written down while this waited
            // for the writer: then it is as any other.
            let failed = (SandboxStatus::Error, AuditAction::SandboxCreateFailed);
            let ways = if sandbox.status == SandboxStatus::Pending { vec![failed, ended] } else { vec![ended] };
            for (over, action) in ways {
                if tx.mark_over(&sandbox.id, event.incarnation, over, reason, now).await? {
                    let mut row = control.audit(&Principal::System, action, sandbox);
                    row.metadata.insert("reason".into(), reason.clone());
                    tx.audit(&row).await?;
                    let why = Some(reason.clone());
                    tx.happened(&sandbox.id, &control.happening(sandbox, HappeningKind::Ended, why)).await?;
                    break;
                }
            }
            control.forget(&sandbox.id);
        }
        (HostEventKind::Paused { paused, cause }, Some(sandbox)) => {
            let (incarnation, cause, used) = (event.incarnation, *cause, used.as_deref());
            let found = FoundPaused { sandbox, incarnation, paused, cause, used };
            if control.note_found_paused(&tx, found).await? {
                tracing::info!(sandbox.id = %sandbox.id, ?cause, "the host paused a sandbox");
            }
        }
        (HostEventKind::PauseFailed { reason, .. }, Some(sandbox)) if sandbox.incarnation == event.incarnation => {
            tracing::warn!(sandbox.id = %sandbox.id, %reason, "a sandbox whose time is over could not be paused");
            let line = control.happening(sandbox, HappeningKind::PauseFailed, Some(reason.clone()));
            // It is tried again each minute for as long as that lasts.
            let last = tx.last_happening(&sandbox.id, line.kind).await?;
            if !last.is_some_and(|last| line.repeats(&last)) {
                let mut row = control.audit(&Principal::System, AuditAction::SandboxPauseFailed, sandbox);
                row.metadata.insert("reason".into(), reason.clone());
                tx.audit(&row).await?;
                tx.happened(&sandbox.id, &line).await?;
            }
        }
        (HostEventKind::Paused { .. } | HostEventKind::PauseFailed { .. }, _) => {}
        (HostEventKind::DiskFull, _) => {
            tracing::warn!(sandbox.id = %event.sandbox, "the host's disk is full: a sandbox stands still");
        }
        (HostEventKind::Resumed, _) => tracing::info!(sandbox.id = %event.sandbox, "a sandbox goes on"),
        (HostEventKind::Ended { .. }, None) => {}
    }
    let happening = match event.kind {
        HostEventKind::DiskFull => Some(HappeningKind::DiskFull),
        HostEventKind::Resumed => Some(HappeningKind::GoesOn),
        HostEventKind::Ended { .. } | HostEventKind::Paused { .. } | HostEventKind::PauseFailed { .. } => None,
    };
    if let (Some(kind), Some(sandbox)) = (happening, &sandbox) {
        tx.happened(&sandbox.id, &control.happening(sandbox, kind, None)).await?;
    }
    tx.commit().await?;
    Ok(())
}
