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
    pub const ALL: [Self; 4] =
        [Self::SandboxCreate, Self::SandboxCreateFailed, Self::SandboxDestroy, Self::SandboxEnded];

    /// `(resource_type, action)` as stored and filtered by.
    pub fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::SandboxCreate => ("sandbox", "create"),
            Self::SandboxCreateFailed => ("sandbox", "create_failed"),
            Self::SandboxDestroy => ("sandbox", "destroy"),
            Self::SandboxEnded => ("sandbox", "ended"),
        }
    }

    /// How its row is marked.
    pub fn status(self) -> AuditStatus {
        match self {
            Self::SandboxCreate => AuditStatus::Success,
            Self::SandboxCreateFailed => AuditStatus::Error,
            Self::SandboxDestroy => AuditStatus::Warning,
            Self::SandboxEnded => AuditStatus::Info,
        }
    }

    /// Who sees it: `team` for every member, `admin` for admins and owners.
    pub fn scope(self) -> &'static str {
        "team"
    }
}
