//! What can go wrong at a host agent's start, and how errors of its parts become the domain's.
//!
//! How it works: lifecycle calls answer [`HostError`], which the control plane maps by type; the texts in its `Failed` are for the
//! operator's log and hold the whole chain.
//!
//! Deliberately absent: reading texts.

use std::path::PathBuf;

use atoll_disk::DiskError;
use atoll_domain::host::HostError;
use atoll_domain::{InstanceId, Invalid};
use atoll_keeper::KeeperError;
use atoll_keeper::client::ClientError;
use atoll_net::NetError;

use crate::shared::Shared;

/// Why a host agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Something else than a data directory.
    #[error(
        "{} holds other files and is no data directory of Atoll's: name an empty or a new directory with --data",
        path.display()
    )]
    NotData {
        /// The directory.
        path: PathBuf,
    },
    /// A file or directory.
    #[error("cannot {action} {}", path.display())]
    File {
        /// `create`, `read` …
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not root.
    #[error("Atoll needs root on this host for networks and jails: run it with sudo")]
    NeedsRoot,
    /// The data directory is somebody else's.
    #[error("the data directory {} belongs to uid {owner}, not to you (uid {own}): use another with --data", path.display())]
    ForeignData {
        /// Which.
        path: PathBuf,
        /// Whose.
        owner: u32,
        /// Ours.
        own: u32,
    },
    /// Another Atoll runs on it.
    #[error("the data directory {} is in use by a running Atoll (pid {pid}): stop it, or use another with --data", path.display())]
    InUse {
        /// Which.
        path: PathBuf,
        /// By whom, as far as it wrote that down.
        pid: String,
    },
    /// Another directory bears the instance's id, and an Atoll runs on that.
    #[error(
        "one of {} and {other} is a copy: both are instance {instance}, by which VMs and networks are named, and an Atoll (pid {pid}) runs \
         on {other}: stop that one and end its sandboxes; or remove {}/instance.json, which gives {} an id of its own: what is paused there \
         stays, what ran when the copy was made ends",
        path.display(), path.display(), path.display()
    )]
    InstanceRuns {
        /// Which was to be used.
        path: PathBuf,
        /// Which is used, as far as that was written down.
        other: String,
        /// The id.
        instance: InstanceId,
        /// By whom, as far as it wrote that down.
        pid: String,
    },
    /// Another directory bears the instance's id, and VMs of it may run.
    #[error(
        "one of {} and {} is a copy: both are instance {instance}, by which VMs and networks are named, and VMs of {} may still run: end \
         them (`atoll up --data {} --on-exit destroy`, or pause, and stop it), or move it away, which ends them too; or remove \
         {}/instance.json, which gives {} an id of its own: what is paused there stays, what ran when the copy was made ends",
        path.display(), other.display(), other.display(), other.display(), path.display(), path.display()
    )]
    InstanceLives {
        /// Which was to be used.
        path: PathBuf,
        /// Whose the VMs are.
        other: PathBuf,
        /// The id.
        instance: InstanceId,
    },
    /// Something in the data directory is not what Atoll wrote.
    #[error("{} is malformed: {why}", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Objects are there, and nothing says who rests on them.
    #[error(
        "{} is missing or empty, so nobody knows which templates and sandboxes rest on the {objects} objects beside it: put that file back \
         from a backup; or move {} away, which gives up the templates and the memory of the paused sandboxes that rest on them",
        journal.display(), root.display()
    )]
    ObjectsUnknown {
        /// The file that says it.
        journal: PathBuf,
        /// The directory of the objects.
        root: PathBuf,
        /// How many are there.
        objects: usize,
    },
    /// The binary carries no keeper or no guest agent.
    #[error("this build carries no keeper and guest agent: build it with `cargo xtask build`")]
    Incomplete,
    /// The network.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The cache.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

impl StartError {
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}

/// An error with all of its causes, for the log.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

pub(crate) fn failed(error: &dyn std::error::Error) -> HostError {
    HostError::Failed(chain(error))
}

/// Said of what is asked of a host agent that stops, and of what it leaves to the next start.
pub(crate) fn stopping() -> HostError {
    HostError::Stopping
}

/// An actor that gives no answer any more: it leaves its sandbox to the next start, or a fault ended it.
pub(crate) fn silent(shared: &Shared) -> HostError {
    if shared.stopping.is_cancelled() {
        stopping()
    } else {
        HostError::Unavailable("the sandbox's actor has ended".into())
    }
}

/// A failed blocking task: it panicked, or the runtime ends.
pub(crate) fn join_failed(error: tokio::task::JoinError) -> HostError {
    if error.is_cancelled() { stopping() } else { HostError::Failed(format!("a blocking task failed: {error}")) }
}

pub(crate) fn from_disk(error: DiskError) -> HostError {
    match error {
        DiskError::Cancelled => stopping(),
        DiskError::NoSpace { .. } => HostError::NoCapacity { what: "disk_mb".into(), needed: 1, available: 0 },
        DiskError::MissingTool { tool, package } => {
            HostError::MissingTool { what: tool, remedy: format!("apt-get install {package}") }
        }
        DiskError::UnknownTemplate { name, known } => HostError::UnknownTemplate { name, known },
        DiskError::Unusable { field, .. } => HostError::Invalid(Invalid::new(field, "unusable", error.to_string())),
        other => failed(&other),
    }
}

pub(crate) fn from_net(error: NetError) -> HostError {
    match error {
        NetError::NoSlot { .. } => HostError::NoCapacity { what: "address pool".into(), needed: 1, available: 0 },
        NetError::NftMissing => {
            HostError::MissingTool { what: "nftables".into(), remedy: "apt-get install nftables".into() }
        }
        other => failed(&other),
    }
}

pub(crate) fn from_keeper(error: KeeperError) -> HostError {
    match error {
        KeeperError::QemuMissing { missing } => {
            HostError::MissingTool { what: missing, remedy: "apt-get install qemu-system-x86".into() }
        }
        other => failed(&other),
    }
}

pub(crate) fn from_client(error: ClientError) -> HostError {
    failed(&error)
}
