//! Why the control plane does not do what it was asked.
//!
//! How it works: one variant per kind of refusal; the web layer maps them to statuses by type.
//!
//! Deliberately absent: statuses, and texts that anybody would have to read to decide something.

use atoll_domain::host::HostError;
use atoll_domain::snapshot::MemoryReason;
use atoll_domain::{Invalid, SandboxStatus};
use atoll_guest_client::GuestError;
use atoll_store::StoreError;

/// What was looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A sandbox.
    Sandbox,
    /// A template.
    Template,
    /// A file in a sandbox.
    File,
    /// A process in a sandbox.
    Process,
    /// What a sandbox used.
    Metrics,
}

impl What {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sandbox => "sandbox",
            Self::Template => "template",
            Self::File => "file",
            Self::Process => "process",
            Self::Metrics => "metrics of",
        }
    }
}

/// An error of the control plane.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Input that breaks a bound.
    #[error("{0}")]
    Invalid(Invalid),
    /// Nobody, or nobody known.
    #[error("this needs an API key: send it as X-API-Key")]
    Unauthorized,
    /// Known, and not allowed.
    #[error("this is not allowed for {who}")]
    Forbidden {
        /// Which kind of principal.
        who: &'static str,
    },
    /// Not there, or not the asker's.
    #[error("{} `{id}` not found", what.as_str())]
    NotFound {
        /// What kind of thing.
        what: What,
        /// As it was asked for.
        id: String,
    },
    /// It is in a state in which this cannot be done.
    #[error("sandbox `{id}` is {status}, not running")]
    NotRunning {
        /// The sandbox.
        id: String,
        /// How it is.
        status: SandboxStatus,
    },
    /// It was to end at a moment that has passed.
    #[error("the end_at of sandbox `{id}` has passed: set another, or null, and resume it then")]
    DeadlinePassed {
        /// The sandbox.
        id: String,
    },
    /// The secrets of a paused sandbox cannot be opened.
    #[error("the secrets of sandbox `{id}` cannot be opened: {why}")]
    SecretsUnavailable {
        /// The sandbox.
        id: String,
        /// What is to be done about it.
        why: String,
    },
    /// A template was asked for of a paused sandbox of which no memory is kept.
    #[error(
        "a template holds the memory of its sandbox, and of `{id}`, which is paused, there is none: {why}; resume it in mode `disk` \
         and make the template of it while it runs"
    )]
    NoMemoryToCopy {
        /// The sandbox.
        id: String,
        /// What became of it.
        why: MemoryReason,
    },
    /// Something of that name is there already.
    #[error("{what} is there already")]
    Conflict {
        /// What.
        what: String,
    },
    /// A command took longer than it may.
    #[error("the command was killed after {seconds} s; give it more with timeout_sec")]
    CommandTimeout {
        /// The limit.
        seconds: u32,
    },
    /// A process that was followed took longer than it may.
    #[error("the process was killed at its deadline")]
    ProcessTimeout,
    /// A body or file is larger than it may be.
    #[error("{what} is larger than {limit} bytes")]
    TooLarge {
        /// What.
        what: &'static str,
        /// The limit in bytes.
        limit: u64,
    },
    /// The first request under this key is not done yet.
    #[error("the first request with this idempotency key is still under way; try again")]
    InProgress,
    /// The key was used for another request.
    #[error("this idempotency key was used for another request; take a new one")]
    OtherRequest,
    /// As many as there may be are there already.
    #[error("there are {limit} {what} already; close one first")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: u32,
    },
    /// The guest's own disk is full.
    #[error("the sandbox's disk is full: free space in it, or create one with a larger disk_mb")]
    GuestDiskFull,
    /// The guest refused access to a file or directory.
    #[error("the sandbox's user may not do this: {0}")]
    GuestDenied(String),
    /// The host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The guest's agent.
    #[error("the sandbox's agent failed")]
    Guest(#[source] GuestError),
    /// The database.
    #[error(transparent)]
    Store(StoreError),
    /// The disk that the database lies on is full.
    #[error("Atoll's own disk is full: free space on the file system of its data directory")]
    DatabaseFull,
    /// Atoll is going down.
    #[error("Atoll is stopping; try again when it is back")]
    Stopping,
    /// Atoll is going down, and what was asked may have begun.
    #[error(
        "Atoll is stopping and does not hear of the command's end: it may have begun, and then runs on; see the sandbox's processes before it is \
         sent again"
    )]
    CutOff,
    /// Something that must not happen.
    #[error("internal error: {0}")]
    Internal(String),
}

impl ControlError {
    /// The same for another who waited for the same.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::Host(error) => Self::Host(error.clone()),
            Self::NotRunning { id, status } => Self::NotRunning { id: id.clone(), status: *status },
            Self::DeadlinePassed { id } => Self::DeadlinePassed { id: id.clone() },
            Self::SecretsUnavailable { id, why } => Self::SecretsUnavailable { id: id.clone(), why: why.clone() },
            Self::NotFound { what, id } => Self::NotFound { what: *what, id: id.clone() },
            Self::DatabaseFull => Self::DatabaseFull,
            Self::Stopping => Self::Stopping,
            // A fault of ours either way; the one who led it has it whole.
            other => Self::Internal(other.to_string()),
        }
    }
}

impl From<StoreError> for ControlError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NoSpace => Self::DatabaseFull,
            other => Self::Store(other),
        }
    }
}

impl From<Invalid> for ControlError {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}
