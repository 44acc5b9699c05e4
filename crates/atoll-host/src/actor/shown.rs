//! What others are told of a sandbox: a state of its actor's, and the facts before anything is known.
//!
//! How it works: pure functions; [`super::Actor`] publishes what they answer.
//!
//! Deliberately absent: what becomes known later, which each piece of work notes itself.

use atoll_domain::actor::State;
use atoll_domain::host::{HostSandboxState, SandboxFacts};
use atoll_domain::{Incarnation, SandboxId, ttl};

/// What others are told of a state; of one that is left to the next start, what they were told before.
pub(super) fn shown(state: State) -> Option<HostSandboxState> {
    Some(match state {
        State::Preparing | State::Booting(_) | State::Adopting | State::Refused => HostSandboxState::Starting,
        State::Left => return None,
        State::Running | State::Copying => HostSandboxState::Running,
        State::Pausing | State::Settling => HostSandboxState::Pausing,
        State::Paused | State::CopyingPaused => HostSandboxState::Paused,
        State::Resuming => HostSandboxState::Resuming,
        State::Cancelling | State::Releasing | State::Gone => HostSandboxState::Stopping,
        // Seen in the host's list, so that whoever compares it with the records destroys it again.
        State::Stuck => HostSandboxState::Stuck,
    })
}

/// Said of one that has no actor, because its journal cannot be read.
pub(crate) fn unread_facts(id: &SandboxId, dir: &std::path::Path) -> SandboxFacts {
    first_facts(Incarnation::FIRST, id, dir)
}

pub(super) fn first_facts(incarnation: Incarnation, id: &SandboxId, dir: &std::path::Path) -> SandboxFacts {
    SandboxFacts {
        id: id.clone(),
        incarnation,
        state: HostSandboxState::Starting,
        directory: dir.display().to_string(),
        keeper_pid: None,
        vmm_pid: None,
        netns: None,
        interface: None,
        host_ip: None,
        guest_ip: None,
        uid: None,
        paused: None,
        limits: ttl::Limits::default(),
        phases: Vec::new(),
    }
}
