//! What it means that a sandbox's agent is lost.
//!
//! How it works: the loss is heard of at once, by whoever had a connection; that the VM behind it ended, or that its host stops, the host says.
//! A host that does not know it yet is asked again for a moment.
//!
//! Deliberately absent: what an agent says no to, which each call understands itself.

use std::time::{Duration, Instant};

use atoll_domain::SandboxStatus;
use atoll_domain::host::{HostError, HostSandboxState};
use atoll_domain::record::Sandbox;
use atoll_guest_client::GuestError;

use crate::{Control, ControlError};

/// How long a host may take to notice that a VM has ended.
const NOTICED: Duration = Duration::from_secs(3);
/// How long until it is asked again.
const LOOK: Duration = Duration::from_millis(50);

impl Control {
    /// The state of a sandbox whose agent is lost; `Paused` also when it has begun another life since.
    async fn settled(&self, sandbox: &Sandbox, error: &GuestError) -> Result<HostSandboxState, HostError> {
        let begun = Instant::now();
        loop {
            let facts = self.driver().inspect(sandbox.id.clone()).await?;
            if facts.incarnation > sandbox.incarnation {
                return Ok(HostSandboxState::Paused);
            }
            if facts.state != HostSandboxState::Running || !is_cut(error) || begun.elapsed() > NOTICED {
                return Ok(facts.state);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// A lost agent may mean a lost sandbox, or a host that stops: then that is the answer.
    pub(crate) async fn why_lost(&self, sandbox: &Sandbox, error: GuestError) -> ControlError {
        let over = match self.settled(sandbox, &error).await {
            Ok(HostSandboxState::Pausing | HostSandboxState::Paused | HostSandboxState::Resuming) => {
                SandboxStatus::Paused
            }
            Ok(HostSandboxState::Stopping | HostSandboxState::Stuck) | Err(HostError::NotFound) => {
                let status = self.store().sandbox(&sandbox.id).await.ok().flatten().map(|s| s.status);
                status.filter(|s| s.is_over()).unwrap_or(SandboxStatus::Stopped)
            }
            Err(error @ (HostError::Unavailable(_) | HostError::Stopping)) => return error.into(),
            _ => return ControlError::Guest(error),
        };
        ControlError::NotRunning { id: sandbox.id.to_string(), status: over }
    }
}

/// Whether the way to an agent is gone, rather than something said over it.
fn is_cut(error: &GuestError) -> bool {
    matches!(error, GuestError::Dial(_) | GuestError::Protocol(_))
}
