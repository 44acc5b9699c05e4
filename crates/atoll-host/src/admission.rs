//! Whether the machine has room for one more sandbox.
//!
//! How it works: the machine's own figures are read here and compared by the domain's rule. Memory may be promised one and a half
//! times, because guests rarely use all of theirs, but what the new one needs to boot must be there now.
//!
//! Deliberately absent: disk quotas (a CoW disk is sparse; a full host disk stops a guest by event).

use std::path::Path;

use atoll_domain::Shape;
use atoll_domain::admission::{admit, admit_pause};
use atoll_domain::host::{HostError, Room};

/// Total and available memory in MiB.
pub(crate) fn memory_mb() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let read = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    (read("MemTotal:").unwrap_or(0) / 1024, read("MemAvailable:").unwrap_or(0) / 1024)
}

/// Refuses what does not fit beside `promised_mb` MiB of guests.
pub(crate) fn check(data: &Path, shape: Shape, promised_mb: u64) -> Result<(), HostError> {
    admit(shape, room(data, promised_mb)?)
}

/// Refuses a pause whose memory may not fit on the disk.
pub(crate) fn check_pause(data: &Path, shape: Shape) -> Result<(), HostError> {
    admit_pause(shape, disk_free_mb(data)?)
}

/// What is left of the machine beside `promised_mb` MiB of guests.
pub(crate) fn room(data: &Path, promised_mb: u64) -> Result<Room, HostError> {
    let (total_mb, available_mb) = memory_mb();
    Ok(Room { total_mb, available_mb, promised_mb, disk_free_mb: disk_free_mb(data)? })
}

/// Free space of a directory's file system in MiB.
pub(crate) fn disk_free_mb(dir: &Path) -> Result<u64, HostError> {
    let free = nix::sys::statvfs::statvfs(dir).map_err(|errno| HostError::Failed(format!("statvfs: {errno}")))?;
    Ok(free.blocks_available() * free.fragment_size() / (1024 * 1024))
}
