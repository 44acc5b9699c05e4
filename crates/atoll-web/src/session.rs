//! What the sessions of a stream and of a terminal share.
//!
//! How it works: two halves run side by side, one reads the process, the other the client. A client that is gone may have said something
//! before, above all `stop`: what is there is still read.
//!
//! Deliberately absent: the frames ([`crate::follow`], [`crate::terminal`]).

use std::pin::pin;
use std::time::Duration;

use atoll_control::sandboxes::ProcessHandle;
use tokio::time::timeout;

use crate::socket::End;

/// How long what a client said before it left may take.
const LINGER: Duration = Duration::from_secs(10);

/// Runs both halves until one ends.
pub(crate) async fn both(outbound: impl Future<Output = End>, inbound: impl Future<Output = End>) -> End {
    let mut inbound = pin!(inbound);
    let end = tokio::select! {
        end = outbound => end,
        end = &mut inbound => return end,
    };
    if end == End::Lost {
        // It ends by itself as soon as all is read.
        let _ = timeout(LINGER, inbound).await;
    }
    end
}

/// Kills the process; it may have ended a moment ago, which the other half tells.
pub(crate) async fn kill(handle: &ProcessHandle) {
    if let Err(error) = handle.kill().await {
        tracing::warn!(%error, "a process could not be killed");
    }
}
