//! Whether the machine has room for one more sandbox.
//!
//! How it works: the machine's own figures are read here and compared by the domain's rule. Memory may be promised one and a half
//! times, because guests rarely use all of theirs, but what the new one needs to boot must be there now.
//!
//! Deliberately absent: disk quotas (a CoW disk is sparse; a full host disk stops a guest by event).

use std::path::Path;

use atoll_domain::Shape;
use atoll_domain::admission::{admit, admit_pause, admit_sandbox, admit_writing};
use atoll_domain::host::{HostError, Room, SandboxSpec};

/// Total and available memory in MiB.
pub(crate) fn memory_mb() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let read = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    (read("MemTotal:").unwrap_or(0) / 1024, read("MemAvailable:").unwrap_or(0) / 1024)
}

/// What sandboxes that are there were promised, in MiB.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Promised {
    /// Of memory.
    pub(crate) memory_mb: u64,
    /// Of disk, for the pauses that limits may bring.
    pub(crate) pause_mb: u64,
}

/// Refuses what does not fit beside what was promised.
pub(crate) fn check(data: &Path, spec: &SandboxSpec, promised: Promised) -> Result<(), HostError> {
    admit_sandbox(spec.shape, &spec.lifetime, room(data, promised)?)
}

/// The same for a machine that no limit pauses.
pub(crate) fn check_shape(data: &Path, shape: Shape, promised: Promised) -> Result<(), HostError> {
    admit(shape, room(data, promised)?)
}

/// Refuses to write a guest's memory where it may not fit: one whose bytes were reserved takes what is free, any other leaves what is
/// reserved for the rest.
pub(crate) fn check_pause(data: &Path, shape: Shape, reserved: bool, promised: Promised) -> Result<(), HostError> {
    admit_writing(shape, reserved, room(data, promised)?)
}

/// Refuses limits by which a sandbox that had none may be paused, if that does not fit beside what was promised.
pub(crate) fn check_limits(data: &Path, shape: Shape, promised: Promised) -> Result<(), HostError> {
    admit_pause(shape, room(data, promised)?.disk_left_mb())
}

/// What is left of the machine beside what was promised.
pub(crate) fn room(data: &Path, promised: Promised) -> Result<Room, HostError> {
    let (total_mb, available_mb) = memory_mb();
    let Promised { memory_mb: promised_mb, pause_mb } = promised;
    Ok(Room { total_mb, available_mb, promised_mb, disk_free_mb: disk_free_mb(data)?, pause_mb })
}

/// Free space of a directory's file system in MiB.
pub(crate) fn disk_free_mb(dir: &Path) -> Result<u64, HostError> {
    let free = nix::sys::statvfs::statvfs(dir).map_err(|errno| HostError::Failed(format!("statvfs: {errno}")))?;
    Ok(free.blocks_available() * free.fragment_size() / (1024 * 1024))
}
