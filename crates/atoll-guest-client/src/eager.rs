//! Dialling an agent that is not there yet.
//!
//! How it works: what is sent to a guest whose network is not up is lost, and the kernel sends it again only after a second. So a new
//! attempt begins every [`INTERVAL`] while the earlier ones go on for a while: the first that connects wins, and a
//! guest that is slow, not absent, still has [`PATIENCE`] for its answer.
//!
//! Deliberately absent: an end. The client's limit for dialling ([`crate::Limits::dial`]) is one.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::dial::{Dial, DialFuture};

/// Between the beginnings of two attempts.
const INTERVAL: Duration = Duration::from_millis(40);
/// For one attempt; so at most seven are under way.
const PATIENCE: Duration = Duration::from_millis(250);

struct Eager(Arc<dyn Dial>);

impl Dial for Eager {
    fn dial(&self) -> DialFuture<'_> {
        Box::pin(async move {
            let mut tick = interval(INTERVAL);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut attempts = FuturesUnordered::new();
            loop {
                tokio::select! {
                    _ = tick.tick() => attempts.push(timeout(PATIENCE, self.0.dial())),
                    Some(ended) = attempts.next() => match ended {
                        Ok(Ok(stream)) => return Ok(stream),
                        // A guest that refuses is nearly there.
                        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => tick.reset_after(INTERVAL / 8),
                        Ok(Err(_)) | Err(_) => {}
                    },
                }
            }
        })
    }
}

/// Dials with `dial` again and again until it connects.
pub fn eagerly(dial: Arc<dyn Dial>) -> Arc<dyn Dial> {
    Arc::new(Eager(dial))
}
