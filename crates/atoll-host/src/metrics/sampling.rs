//! The tick of all sandboxes' metrics.
//!
//! How it works: one task for all, each tick on a blocking thread, because it reads small files; it ends with the host agent.
//! Memory images that nobody uses any more go with a tick, too.
//!
//! Deliberately absent: the points themselves ([`super::Metrics`]).

use std::sync::Arc;
use std::time::Duration;

use crate::shared::Shared;

const SAMPLE: Duration = Duration::from_millis(atoll_domain::metrics::SAMPLE_MS);

/// Samples all sandboxes until the agent stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(SAMPLE);
    // After a stall the next samples are as far apart as any others.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while shared.stopping.run_until_cancelled(ticks.tick()).await.is_some() {
        shared.objects.let_go();
        let (targets, metrics) = (shared.targets(), Arc::clone(&shared.metrics));
        // It reads small files of the kernel's and appends to the page cache: a panic in it is all that can fail.
        if let Err(error) = tokio::task::spawn_blocking(move || metrics.sample(&targets)).await {
            tracing::error!(%error, "sandboxes could not be sampled");
        }
    }
}
