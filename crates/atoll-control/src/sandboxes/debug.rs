//! A raw connection to a sandbox's agent, for the debug port.
//!
//! How it works: the connection comes with the agent's token, which whoever forwards over it adds, and counts as a stream of the sandbox as
//! long as it is held. Its bytes are uses of the sandbox, of which only the forwarder knows: it says so by [`AgentUses`].
//!
//! Deliberately absent: HTTP, and who listens (atoll-web).

use atoll_domain::access::Action;
use atoll_domain::host::GuestToken;
use atoll_domain::{Principal, SandboxId};
use atoll_guest_client::{AGENT_PORT, GuestStream};

use crate::streams::StreamPermit;
use crate::uses::InUse;
use crate::{Control, ControlError};

/// A connection to a sandbox's agent.
pub struct AgentConnection {
    /// The bytes.
    pub stream: GuestStream,
    /// What the agent lets in with.
    pub token: GuestToken,
    /// Held as long as the connection lives.
    pub permit: StreamPermit,
    /// Held until the agent has answered: somebody waits for that.
    pub waiting: InUse,
    /// Told of every byte that passes.
    pub uses: AgentUses,
}

/// Says that a sandbox is used through a connection.
#[derive(Clone)]
pub struct AgentUses {
    control: Control,
    id: SandboxId,
}

impl std::fmt::Debug for AgentUses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentUses").field("id", &self.id).finish_non_exhaustive()
    }
}

impl AgentUses {
    /// Bytes passed.
    pub fn note(&self) {
        self.control.used(&self.id);
    }
}

impl std::fmt::Debug for AgentConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentConnection").field("permit", &self.permit).finish_non_exhaustive()
    }
}

impl Control {
    /// Whether somebody may open a sandbox's agent to this whole machine.
    ///
    /// # Errors
    /// [`ControlError::Forbidden`].
    pub fn may_open_debug_port(&self, principal: &Principal) -> Result<(), ControlError> {
        Self::authorise(principal, Action::OpenDebugPort).map_err(|_| ControlError::Forbidden {
            who: "an API key: a debug port is opened over the data directory's socket, by root or its owner",
        })
    }

    /// A fresh connection to the agent of a running sandbox.
    ///
    /// # Errors
    /// Not found, not running, too many streams, a host that cannot be reached.
    pub async fn agent_connection(&self, principal: &Principal, id: &str) -> Result<AgentConnection, ControlError> {
        let sandbox = self.running(principal, id).await?;
        let permit = self.streams().open(&sandbox.id)?;
        let token = self.token(&sandbox).await?;
        let waiting = self.in_use(&sandbox.id);
        let uses = AgentUses { control: self.clone(), id: sandbox.id.clone() };
        let stream = self.driver().open_stream(sandbox.id, AGENT_PORT).await?;
        Ok(AgentConnection { stream, token, permit, waiting, uses })
    }
}
