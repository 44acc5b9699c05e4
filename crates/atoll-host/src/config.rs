//! What a host agent is given at its start.
//!
//! How it works: plain values, checked by whoever reads them from flags and files.
//!
//! Deliberately absent: defaults; they are the binary's.

use std::path::PathBuf;
use std::sync::Arc;

use atoll_disk::{Cache, Progress};
use atoll_domain::golden::GoldenShape;

/// What shall run the guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AcceleratorChoice {
    /// KVM if a guest really boots under it, else emulation.
    #[default]
    Auto,
    /// KVM, or nothing.
    Kvm,
    /// Emulation.
    Tcg,
}

/// What a host agent is given.
#[derive(Clone)]
pub struct HostConfig {
    /// Everything that belongs to this instance.
    pub data: PathBuf,
    /// Images and kernels, shared by instances.
    pub cache: Cache,
    /// The static keeper.
    pub keeper: &'static [u8],
    /// The static guest agent.
    pub guest: &'static [u8],
    /// Address range of the links to sandboxes, if one is wanted.
    pub address_pool: Option<String>,
    /// What shall run the guests.
    pub accelerator: AcceleratorChoice,
    /// Shapes of which a booted guest is kept, so that a create is a restore; the more important first.
    pub golden_shapes: Vec<GoldenShape>,
    /// How many MiB they may take.
    pub golden_budget_mb: u64,
    /// MiB a second that one VMM may read, and write, of the disk below the data directory; 0 for no limit.
    pub disk_rate_mb: u64,
    /// How many KiB of each process's output a guest's agent keeps for readers that come back.
    pub output_kb: u64,
    /// Hears how images are made.
    pub progress: Arc<dyn Progress>,
}

impl std::fmt::Debug for HostConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostConfig").field("data", &self.data).field("cache", &self.cache).finish_non_exhaustive()
    }
}
