//! Whether a machine has room for one more sandbox.
//!
//! How it works: a pure comparison of what is asked with what the machine says of itself. Memory may be promised one and a half
//! times, because guests rarely touch all of theirs, but what a boot needs must be there now.
//!
//! Deliberately absent: reading the machine.

use crate::Shape;
use crate::host::{HostError, Room};
use crate::ttl::Lifetime;

/// Kept free for the machine itself.
const RESERVE_MB: u64 = 256;
/// A VMM's own need.
const VMM_MB: u64 = 100;
/// Kept free on disk, so that guests and journals can go on writing.
const DISK_RESERVE_MB: u64 = 512;

/// Free space with which VMs that stood still because the disk was full go on.
const DISK_GO_ON_MB: u64 = 64;

/// Whether a VM that met a full disk may go on.
pub fn may_go_on(disk_free_mb: u64) -> bool {
    disk_free_mb >= DISK_GO_ON_MB
}

/// Says what is short, if anything is.
///
/// # Errors
/// [`HostError::NoCapacity`] with what is needed and what there is.
pub fn admit(shape: Shape, room: Room) -> Result<(), HostError> {
    let short =
        |what: &str, needed: u64, available: u64| Err(HostError::NoCapacity { what: what.into(), needed, available });
    let wanted = u64::from(shape.memory_mb) + VMM_MB;
    let promise = room.total_mb * 3 / 2;
    if room.promised_mb + wanted > promise {
        return short("memory_mb", wanted, promise.saturating_sub(room.promised_mb));
    }
    // A guest touches about a quarter of a small memory while it boots.
    let now = u64::from(shape.memory_mb) / 4 + VMM_MB + RESERVE_MB;
    if now > room.available_mb {
        return short("memory_mb", now, room.available_mb);
    }
    if room.disk_left_mb() < DISK_RESERVE_MB {
        return short("disk_mb", DISK_RESERVE_MB, room.disk_left_mb());
    }
    Ok(())
}

/// The same of a sandbox with limits: what a pause that they bring may write is reserved for it from the start.
///
/// # Errors
/// [`HostError::NoCapacity`] with what is needed and what there is.
pub fn admit_sandbox(shape: Shape, lifetime: &Lifetime, room: Room) -> Result<(), HostError> {
    admit(shape, room)?;
    if lifetime.may_pause() { admit_pause(shape, room.disk_left_mb()) } else { Ok(()) }
}

/// Device state and what a file system needs for itself, beside a guest's memory.
const PAUSE_EXTRA_MB: u64 = 64;

/// Whether what a pause may write fits, if the guest changed all of its memory.
///
/// # Errors
/// [`HostError::NoCapacity`] with what is needed and what there is.
pub fn admit_pause(shape: Shape, disk_free_mb: u64) -> Result<(), HostError> {
    let needed = u64::from(shape.memory_mb) + PAUSE_EXTRA_MB;
    if disk_free_mb >= needed {
        return Ok(());
    }
    Err(HostError::NoCapacity { what: "disk_mb".into(), needed, available: disk_free_mb })
}

/// Whether a guest's memory may be written now. One whose bytes were reserved takes what is free: counted against the others'
/// reservations, guests' disks that grew into those would keep everybody from being paused. Any other leaves what is reserved.
///
/// # Errors
/// [`HostError::NoCapacity`] with what is needed and what there is.
pub fn admit_writing(shape: Shape, reserved: bool, room: Room) -> Result<(), HostError> {
    admit_pause(shape, if reserved { room.disk_free_mb } else { room.disk_left_mb() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: Room = Room { total_mb: 8000, available_mb: 4000, promised_mb: 0, disk_free_mb: 10_000, pause_mb: 0 };
    const SHAPE: Shape = Shape { vcpus: 1, memory_mb: 512, disk_mb: 5120 };

    #[test]
    fn what_is_short_is_named_with_what_there_is() {
        assert_eq!(admit(SHAPE, ROOM), Ok(()));
        let short = |room| match admit(SHAPE, room) {
            Err(HostError::NoCapacity { what, needed, available }) => (what, needed > available, available),
            other => panic!("{other:?}"),
        };
        assert_eq!(short(Room { disk_free_mb: 511, ..ROOM }), ("disk_mb".into(), true, 511));
        assert_eq!(short(Room { pause_mb: 9_600, ..ROOM }), ("disk_mb".into(), true, 400), "reserved for pauses");
        assert_eq!(short(Room { available_mb: 300, ..ROOM }), ("memory_mb".into(), true, 300));
        assert_eq!(short(Room { promised_mb: 11_900, ..ROOM }), ("memory_mb".into(), true, 100));
        assert_eq!(short(Room { promised_mb: u64::MAX / 2, ..ROOM }).2, 0);
    }

    #[test]
    fn only_what_a_limit_may_pause_needs_room_for_its_memory() {
        let room = Room { disk_free_mb: 1000, pause_mb: 425, ..ROOM };
        let idle = Lifetime { timeout_sec: 60, ..Lifetime::default() };
        let ends = Lifetime { on_expiry: crate::ttl::OnExpiry::Destroy, ..idle };
        for free in [Lifetime::default(), ends] {
            assert_eq!(admit_sandbox(SHAPE, &free, room), Ok(()));
        }
        let short = HostError::NoCapacity { what: "disk_mb".into(), needed: 576, available: 575 };
        assert_eq!(admit_sandbox(SHAPE, &idle, room), Err(short));
        assert_eq!(admit_sandbox(SHAPE, &idle, Room { pause_mb: 424, ..room }), Ok(()));
        let full = Room { available_mb: 300, ..room };
        assert_eq!(admit_sandbox(SHAPE, &idle, full), admit(SHAPE, full), "memory is looked at first");
    }

    #[test]
    fn what_is_reserved_is_written_and_nobody_else_takes_it() {
        let room = Room { disk_free_mb: 1000, pause_mb: 900, ..ROOM };
        assert_eq!(admit_writing(SHAPE, true, room), Ok(()));
        let short = HostError::NoCapacity { what: "disk_mb".into(), needed: 576, available: 100 };
        assert_eq!(admit_writing(SHAPE, false, room), Err(short));
        assert_eq!(admit_writing(SHAPE, false, Room { pause_mb: 424, ..room }), Ok(()));
        assert!(admit_writing(SHAPE, true, Room { disk_free_mb: 575, ..room }).is_err());
    }

    #[test]
    fn a_halted_vm_waits_for_more_space_than_one_write_needs() {
        assert!(!may_go_on(0) && !may_go_on(63) && may_go_on(64));
    }
}
