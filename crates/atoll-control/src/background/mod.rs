//! The loops that run beside the requests.
//!
//! How it works: each is one file with an idempotent `activate`, run again and again until the control plane stops; it takes no input,
//! so that it can be called at any time, and answers what it did.
//!
//! Deliberately absent: leases. On SQLite the data directory's lock is the lease.

mod host_events;
mod operations;
pub mod reconcile;
pub mod templates;
mod uses;

pub(crate) use host_events::caught_up;

use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use crate::{Control, ControlError};

const RECONCILE_EVERY: Duration = Duration::from_secs(15);
/// How long a loop waits after its first round; twice as long after each, up to its own pace.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const USES_EVERY: Duration = Duration::from_secs(5);
/// Well below the shortest timeout of a sandbox, which is one second.
const TELL_USES_EVERY: Duration = Duration::from_millis(500);
const RETRY_EVENTS: Duration = Duration::from_secs(1);

type Activation = BoxFuture<'static, Result<(), ControlError>>;

/// Starts all of them; they end with the control plane.
pub(crate) fn start(control: &Control) {
    every(control, RECONCILE_EVERY, "operations", |c| async move { operations::activate(&c).await.map(drop) }.boxed());
    every(control, RECONCILE_EVERY, "reconcile", |c| async move { reconcile::activate(&c).await.map(drop) }.boxed());
    every(control, RECONCILE_EVERY, "templates", |c| async move { templates::activate(&c).await.map(drop) }.boxed());
    every(control, TELL_USES_EVERY, "uses for the host", |c| async move { uses::tell(&c).await.map(drop) }.boxed());
    every(control, USES_EVERY, "uses", |c| async move { uses::activate(&c).await.map(drop) }.boxed());
    every(control, RETRY_EVENTS, "host events", |c| async move { host_events::activate(&c).await }.boxed());
}

fn every(control: &Control, pause: Duration, name: &'static str, activate: fn(Control) -> Activation) {
    let loop_control = control.clone();
    let work = async move {
        // A start has the most to settle: some of it waits for the host, which is settling too.
        let mut next = pause.min(FIRST_PAUSE);
        loop {
            if let Err(error) = activate(loop_control.clone()).await {
                tracing::warn!(background = name, %error, "a background loop failed and will run again");
            }
            tokio::time::sleep(next).await;
            next = pause.min(next * 2);
        }
    };
    // A loop is between two awaits when it is stopped: every transaction is whole or rolled back.
    let stopping = control.stopping().clone();
    control.spawn(async move { stopping.run_until_cancelled(work).await });
}
