//! What can go wrong with networks.
//!
//! How it works: one enum that says which step failed and why; what the operator must mend (a missing program, no free
//! range) has a variant of its own.
//!
//! Deliberately absent: taking back; callers do that by the plan.

use std::io;
use std::path::PathBuf;

use atoll_domain::{InstanceId, SandboxId};

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// Not root.
    #[error("networks of sandboxes need root: run Atoll as root (sudo)")]
    NeedsRoot,
    /// A step that the kernel refused.
    #[error("cannot {step}")]
    Step {
        /// What was being done.
        step: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The rules could not be loaded.
    #[error("cannot load the packet filter: {reason}")]
    Nft {
        /// What libnftables or `nft` said.
        reason: String,
    },
    /// Neither libnftables nor `nft` is there.
    #[error("nftables is not installed: apt-get install nftables")]
    NftMissing,
    /// A file of the claims.
    #[error("cannot {action} {}", path.display())]
    File {
        /// `read`, `write` …
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// All slots are claimed.
    #[error("all {limit} network slots of this machine are taken: destroy sandboxes")]
    NoSlot {
        /// How many there are.
        limit: u32,
    },
    /// A number that a VM runs with belongs to somebody else by now.
    #[error("network slot {slot} was given to sandbox {sandbox} of instance {instance}")]
    SlotTaken {
        /// Which.
        slot: u32,
        /// The instance that has it.
        instance: InstanceId,
        /// The sandbox that has it.
        sandbox: SandboxId,
    },
    /// The configured range cannot be used.
    #[error("address pool `{pool}`: {reason}")]
    Pool {
        /// As given.
        pool: String,
        /// What is wrong and what would do.
        reason: String,
    },
    /// The thread that does the work died.
    #[error("the network thread ended without an answer")]
    Thread,
}

impl NetError {
    pub(crate) fn step(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        move |source| Self::Step { step, source }
    }

    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}
