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
    /// The host keeps it without a VM: write that down, with the life that the host says.
    MarkPaused,
    /// The host runs it in a later life than the one that was paused: write that down.
    MarkResumed,
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
        (Some((status, incarnation)), Some(seen)) => known(status, incarnation, seen),
    }
}

/// Both know it.
fn known(status: SandboxStatus, incarnation: Incarnation, seen: Observed) -> Remedy {
    use HostSandboxState as Host;
    let later = seen.incarnation > incarnation;
    match (status, seen.state) {
        (_, Host::Stopping) => Remedy::Nothing,
        // It will never run again, whatever is written of it; once it is gone, that is written down.
        (_, Host::Stuck) => Remedy::Destroy,
        (SandboxStatus::Stopped | SandboxStatus::Error, _) => Remedy::Destroy,
        // An older life has no VM that anybody knows of; what is kept on disk of one is never thrown away for it.
        (_, Host::Paused) if seen.incarnation < incarnation => Remedy::Nothing,
        // What cannot be read or taken over is shown so, and its life may be read too low: it is left alone.
        (SandboxStatus::Running | SandboxStatus::Paused | SandboxStatus::Missing, Host::Starting) => Remedy::Nothing,
        _ if seen.incarnation < incarnation => Remedy::Destroy,
        // First that it ran, then that it is paused.
        (SandboxStatus::Pending, Host::Running | Host::Pausing | Host::Paused) => Remedy::MarkRunning,
        (SandboxStatus::Missing, Host::Running | Host::Pausing) if !later => Remedy::MarkRunning,
        (SandboxStatus::Running | SandboxStatus::Missing, Host::Paused) => Remedy::MarkPaused,
        // A resume and the pause after it were both missed.
        (SandboxStatus::Paused, Host::Paused) if later => Remedy::MarkPaused,
        (SandboxStatus::Paused, Host::Running | Host::Pausing) if later => Remedy::MarkResumed,
        _ => Remedy::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [HostSandboxState; 6] = [
        HostSandboxState::Starting,
        HostSandboxState::Running,
        HostSandboxState::Pausing,
        HostSandboxState::Paused,
        HostSandboxState::Resuming,
        HostSandboxState::Stopping,
    ];

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

    #[test]
    fn what_its_host_cannot_read_is_left_alone_whatever_life_it_seems_to_have() {
        let seen = Some(Observed { state: HostSandboxState::Starting, incarnation: Incarnation::FIRST });
        for status in [SandboxStatus::Running, SandboxStatus::Paused, SandboxStatus::Missing] {
            assert_eq!(remedy(Some((status, Incarnation(3))), seen), Remedy::Nothing, "{status}");
        }
    }

    #[test]
    fn a_pause_or_a_resume_that_was_cut_off_is_written_down_as_the_host_has_it() {
        let (one, two) = (Incarnation::FIRST, Incarnation(2));
        let seen = |state, incarnation| Some(Observed { state, incarnation });
        let (running, paused) = (SandboxStatus::Running, SandboxStatus::Paused);
        assert_eq!(remedy(Some((running, one)), seen(HostSandboxState::Paused, one)), Remedy::MarkPaused);
        assert_eq!(remedy(Some((paused, one)), seen(HostSandboxState::Running, two)), Remedy::MarkResumed);
        assert_eq!(remedy(Some((paused, one)), seen(HostSandboxState::Paused, two)), Remedy::MarkPaused);
        assert_eq!(remedy(Some((paused, one)), seen(HostSandboxState::Paused, one)), Remedy::Nothing);
        for under_way in [HostSandboxState::Pausing, HostSandboxState::Resuming] {
            assert_eq!(remedy(Some((running, one)), seen(under_way, one)), Remedy::Nothing);
            assert_eq!(remedy(Some((paused, one)), seen(under_way, one)), Remedy::Nothing);
        }
        let older = seen(HostSandboxState::Paused, one);
        assert_eq!(remedy(Some((running, two)), older), Remedy::Nothing, "what is kept is never thrown away");
    }
}
