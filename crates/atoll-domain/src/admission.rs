//! Whether a machine has room for one more sandbox.
//!
//! How it works: a pure comparison of what is asked with what the machine says of itself. Memory may be promised one and a half
//! times, because guests rarely touch all of theirs, but what a boot needs must be there now.
//!
//! Deliberately absent: reading the machine.

use crate::Shape;
use crate::host::HostError;

/// What a machine says of itself, in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// All memory.
    pub total_mb: u64,
    /// Memory that can be had now.
    pub available_mb: u64,
    /// Free bytes of the data directory's file system.
    pub disk_free_mb: u64,
}

/// Kept free for the machine itself.
const RESERVE_MB: u64 = 256;
/// A VMM's own need.
const VMM_MB: u64 = 100;
/// Kept free on disk, so that guests and journals can go on writing.
const DISK_RESERVE_MB: u64 = 512;

/// Says what is short, if anything is.
///
/// # Errors
/// [`HostError::NoCapacity`] with what is needed and what there is.
pub fn admit(shape: Shape, promised_mb: u64, machine: Machine) -> Result<(), HostError> {
    let short =
        |what: &str, needed: u64, available: u64| Err(HostError::NoCapacity { what: what.into(), needed, available });
    let wanted = u64::from(shape.memory_mb) + VMM_MB;
    let promise = machine.total_mb * 3 / 2;
    if promised_mb + wanted > promise {
        return short("memory_mb", wanted, promise.saturating_sub(promised_mb));
    }
    // A guest touches about a quarter of a small memory while it boots.
    let now = u64::from(shape.memory_mb) / 4 + VMM_MB + RESERVE_MB;
    if now > machine.available_mb {
        return short("memory_mb", now, machine.available_mb);
    }
    if machine.disk_free_mb < DISK_RESERVE_MB {
        return short("disk_mb", DISK_RESERVE_MB, machine.disk_free_mb);
    }
    Ok(())
}
