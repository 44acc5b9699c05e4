//! The names of what the audit log tells.
//!
//! How it works: one enum, so that a new event is a new variant and the committed list of names shows the change.
//!
//! Deliberately absent: writing rows (the store does it in the transaction of the change).

/// What an audit row tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuditAction {
    /// A sandbox was asked for.
    SandboxCreate,
    /// A sandbox could not be created; follows a `SandboxCreate`.
    SandboxCreateFailed,
    /// A sandbox was destroyed.
    SandboxDestroy,
    /// A sandbox ended without being asked to.
    SandboxEnded,
    /// A sandbox was paused.
    SandboxPause,
    /// Its host paused it: one of its limits was reached, or Atoll stopped.
    SandboxAutoPause,
    /// A sandbox could not be paused and runs on.
    SandboxPauseFailed,
    /// A sandbox was resumed.
    SandboxResume,
    /// A sandbox could not be resumed and stays paused.
    SandboxResumeFailed,
    /// The limits of a sandbox were changed.
    SandboxUpdate,
    /// A template was made of a sandbox.
    SnapshotCreate,
    /// A template could not be made of a sandbox.
    SnapshotCreateFailed,
    /// A template was deleted.
    SnapshotDelete,
    /// A template could not be deleted and stays; follows a `SnapshotDelete`.
    SnapshotDeleteFailed,
}

/// How a row is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuditStatus {
    /// Done.
    Success,
    /// For information.
    Info,
    /// Done, and not to be undone.
    Warning,
    /// Failed.
    Error,
}

impl AuditStatus {
    /// The stored name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl AuditAction {
    /// Every action, in the order of the committed list.
    pub const ALL: [Self; 14] = [
        Self::SandboxCreate,
        Self::SandboxCreateFailed,
        Self::SandboxDestroy,
        Self::SandboxEnded,
        Self::SandboxPause,
        Self::SandboxAutoPause,
        Self::SandboxPauseFailed,
        Self::SandboxResume,
        Self::SandboxResumeFailed,
        Self::SandboxUpdate,
        Self::SnapshotCreate,
        Self::SnapshotCreateFailed,
        Self::SnapshotDelete,
        Self::SnapshotDeleteFailed,
    ];

    /// `(resource_type, action)` as stored and filtered by.
    pub fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::SandboxCreate => ("sandbox", "create"),
            Self::SandboxCreateFailed => ("sandbox", "create_failed"),
            Self::SandboxDestroy => ("sandbox", "destroy"),
            Self::SandboxEnded => ("sandbox", "ended"),
            Self::SandboxPause | Self::SandboxAutoPause => ("sandbox", "pause"),
            Self::SandboxPauseFailed => ("sandbox", "pause_failed"),
            Self::SandboxResume => ("sandbox", "resume"),
            Self::SandboxResumeFailed => ("sandbox", "resume_failed"),
            Self::SandboxUpdate => ("sandbox", "update"),
            Self::SnapshotCreate => ("snapshot", "create"),
            Self::SnapshotCreateFailed => ("snapshot", "create_failed"),
            Self::SnapshotDelete => ("snapshot", "delete"),
            Self::SnapshotDeleteFailed => ("snapshot", "delete_failed"),
        }
    }

    /// How its row is marked.
    pub fn status(self) -> AuditStatus {
        match self {
            Self::SandboxCreate | Self::SandboxPause | Self::SandboxResume | Self::SnapshotCreate => {
                AuditStatus::Success
            }
            Self::SandboxCreateFailed
            | Self::SandboxPauseFailed
            | Self::SandboxResumeFailed
            | Self::SnapshotCreateFailed
            | Self::SnapshotDeleteFailed => AuditStatus::Error,
            Self::SandboxDestroy | Self::SnapshotDelete => AuditStatus::Warning,
            Self::SandboxEnded | Self::SandboxAutoPause | Self::SandboxUpdate => AuditStatus::Info,
        }
    }

    /// Who sees it: `team` for every member, `admin` for admins and owners.
    pub fn scope(self) -> &'static str {
        "team"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The committed list: a filter of somebody's may hold any of these names, so none changes unseen.
    const NAMES: &str = "\
sandbox create success
sandbox create_failed error
sandbox destroy warning
sandbox ended info
sandbox pause success
sandbox pause info
sandbox pause_failed error
sandbox resume success
sandbox resume_failed error
sandbox update info
snapshot create success
snapshot create_failed error
snapshot delete warning
snapshot delete_failed error
";

    #[test]
    fn the_names_are_the_committed_ones() {
        let line = |action: &AuditAction| {
            let (resource, name) = action.names();
            format!("{resource} {name} {}\n", action.status().as_str())
        };
        assert_eq!(AuditAction::ALL.iter().map(line).collect::<String>(), NAMES);
    }
}
