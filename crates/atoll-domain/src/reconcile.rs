//! What to do when what is written down and what a host lists differ.
//!
//! How it works: for one sandbox at a time, from its record and what the host said of it, if anything. The caller takes the records
//! before it asks the host, and leaves out those with a call under way, so that something made in between is never taken for
//! something lost.
//!
//! Deliberately absent: hosts that do not answer (their sandboxes are left alone).

use crate::host::HostSandboxState;
use crate::{Incarnation, SandboxStatus};

/// What a host says of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed {
    /// How far it is.
    pub state: HostSandboxState,
    /// Which life of it.
    pub incarnation: Incarnation,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Both agree, or something is under way.
    Nothing,
    /// The host runs it: write that down.
    MarkRunning,
    /// The host does not have it and it ran: write down that it ended.
    MarkStopped,
    /// The host does not have it and it never ran: write down that it failed.
    MarkError,
    /// The host has it and nobody wants it, or could not give it back whole: end it there.
    Destroy,
}

/// Decides for one sandbox; `None` for a record that there is not.
pub fn remedy(record: Option<(SandboxStatus, Incarnation)>, observed: Option<Observed>) -> Remedy {
    match (record, observed) {
        (None, None) => Remedy::Nothing,
        (None, Some(_)) => Remedy::Destroy,
        (Some((status, _)), None) => match status {
            SandboxStatus::Running | SandboxStatus::Missing => Remedy::MarkStopped,
            SandboxStatus::Pending => Remedy::MarkError,
            SandboxStatus::Paused | SandboxStatus::Stopped | SandboxStatus::Error => Remedy::Nothing,
        },
        (Some((status, incarnation)), Some(seen)) => match status {
            _ if seen.state == HostSandboxState::Stopping => Remedy::Nothing,
            // It will never run again, whatever is written of it; once it is gone, that is written down.
            _ if seen.state == HostSandboxState::Stuck => Remedy::Destroy,
            SandboxStatus::Stopped | SandboxStatus::Error => Remedy::Destroy,
            _ if seen.incarnation < incarnation => Remedy::Destroy,
            SandboxStatus::Pending | SandboxStatus::Missing if seen.state == HostSandboxState::Running => {
                Remedy::MarkRunning
            }
            _ => Remedy::Nothing,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [HostSandboxState; 3] =
        [HostSandboxState::Starting, HostSandboxState::Running, HostSandboxState::Stopping];

    #[test]
    fn nothing_that_runs_as_written_is_touched_and_nothing_unwanted_stays() {
        let one = Incarnation::FIRST;
        let seen = |state| Some(Observed { state, incarnation: one });
        assert_eq!(remedy(Some((SandboxStatus::Running, one)), seen(HostSandboxState::Running)), Remedy::Nothing);
        for state in [HostSandboxState::Starting, HostSandboxState::Running] {
            assert_eq!(remedy(None, seen(state)), Remedy::Destroy);
            assert_eq!(remedy(Some((SandboxStatus::Stopped, one)), seen(state)), Remedy::Destroy);
        }
        for state in STATES {
            assert_ne!(remedy(Some((SandboxStatus::Running, one)), seen(state)), Remedy::Destroy);
            assert_ne!(remedy(Some((SandboxStatus::Pending, one)), seen(state)), Remedy::MarkError);
        }
        assert_eq!(remedy(Some((SandboxStatus::Pending, one)), None), Remedy::MarkError);
        assert_eq!(remedy(Some((SandboxStatus::Running, one)), None), Remedy::MarkStopped);
        assert_eq!(remedy(Some((SandboxStatus::Paused, one)), None), Remedy::Nothing);
        for status in [SandboxStatus::Running, SandboxStatus::Pending, SandboxStatus::Stopped] {
            assert_eq!(remedy(Some((status, one)), seen(HostSandboxState::Stuck)), Remedy::Destroy);
        }
        let older = Some(Observed { state: HostSandboxState::Running, incarnation: Incarnation(0) });
        assert_eq!(remedy(Some((SandboxStatus::Running, one)), older), Remedy::Destroy);
    }
}
