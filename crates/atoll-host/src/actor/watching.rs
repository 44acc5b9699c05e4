//! Looking after a running VM: signs of life, and space on a full disk.
//!
//! How it works: every fifteen seconds the VMM is asked for a sign of life through its keeper, each with a deadline; when two in a
//! row fail, one of the two hangs and the sandbox has ended. While the VM stands still because the host's disk is full,
//! the disk is looked at every second and the VM goes on when there is space. All by the monotonic clock.
//!
//! Deliberately absent: the guest. One that is busy or stopped by its user is not the host's to judge.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use atoll_domain::admission::may_go_on;
use atoll_keeper::client::{ClientError, KeeperClient};
use tokio::sync::watch;

use crate::admission::disk_free_mb;

const SIGN_EVERY: Duration = Duration::from_secs(15);
const SPACE_EVERY: Duration = Duration::from_secs(1);
/// Signs missing in a row that mean an end. Each waited for its own deadline before.
const MISSES: u32 = 2;

/// A future that ends, with the reason, when keeper or VMM hang.
pub(super) struct Watch {
    future: Pin<Box<dyn Future<Output = String> + Send>>,
    halted: watch::Sender<bool>,
}

impl Watch {
    pub(super) fn new(keeper: KeeperClient, data: PathBuf, halted: bool) -> Self {
        let (sender, receiver) = watch::channel(halted);
        Self { future: Box::pin(look_after(keeper, data, receiver)), halted: sender }
    }

    /// Says that the VM met a full disk, or goes on.
    pub(super) fn set_halted(&self, halted: bool) {
        self.halted.send_replace(halted);
    }
}

impl Future for Watch {
    type Output = String;

    fn poll(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> Poll<String> {
        self.future.as_mut().poll(context)
    }
}

async fn look_after(keeper: KeeperClient, data: PathBuf, mut halted: watch::Receiver<bool>) -> String {
    let mut misses = 0;
    loop {
        let pause = if *halted.borrow_and_update() { SPACE_EVERY } else { SIGN_EVERY };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = halted.changed() => match changed {
                Ok(()) => continue,
                // The actor drops both ends together.
                Err(_) => std::future::pending().await,
            },
        }
        let is_halted = *halted.borrow();
        let may = is_halted && disk_free_mb(&data).is_ok_and(may_go_on);
        let goes_on = if may { Some(keeper.resume().await) } else { None };
        let sign = match goes_on {
            Some(outcome) if !matches!(outcome, Err(ClientError::Refused(_))) => outcome,
            // One that stands still, or may not go on yet, answers all the same.
            _ => keeper.probe().await,
        };
        match sign {
            Ok(()) => misses = 0,
            // The connection's end is seen by whoever listens to its events.
            Err(ClientError::Gone) => std::future::pending().await,
            Err(error) => {
                misses += 1;
                tracing::warn!(%error, misses, "a VM gives no sign of life");
                if misses >= MISSES {
                    return format!("the VM hangs: {error}");
                }
            }
        }
    }
}
