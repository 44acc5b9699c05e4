//! What is admitted has room, and a smaller request is never refused where a larger one is not.

use atoll_domain::Shape;
use atoll_domain::admission::admit;
use atoll_domain::host::{HostError, Room};
use proptest::prelude::*;

fn rooms() -> impl Strategy<Value = Room> {
    (0u64..64_000, 0u64..64_000, 0u64..100_000, 0u64..10_000).prop_map(|(total_mb, available_mb, promised_mb, free)| {
        Room { total_mb, available_mb, promised_mb, disk_free_mb: free, pause_mb: 0 }
    })
}

fn shape(memory_mb: u32) -> Shape {
    Shape { vcpus: 1, memory_mb, disk_mb: 5120 }
}

proptest! {
    #[test]
    fn more_room_and_a_smaller_sandbox_never_hurt(room in rooms(), memory in 128u32..32_000, less in 0u32..32_000) {
        if admit(shape(memory), room).is_ok() {
            let smaller = shape(memory.saturating_sub(less).max(128));
            prop_assert!(admit(smaller, room).is_ok());
            let promised_mb = room.promised_mb / 2;
            let roomier = Room { available_mb: room.available_mb * 2, promised_mb, ..room };
            prop_assert!(admit(shape(memory), roomier).is_ok());
            prop_assert!(room.promised_mb + u64::from(memory) <= room.total_mb * 3 / 2);
        }
    }

    #[test]
    fn a_refusal_names_what_is_short_and_by_how_much(room in rooms(), memory in 128u32..32_000) {
        if let Err(error) = admit(shape(memory), room) {
            let HostError::NoCapacity { what, needed, available } = error else { panic!("{error:?}") };
            prop_assert!(what == "memory_mb" || what == "disk_mb");
            prop_assert!(needed > available, "{what}: {needed} of {available}");
        }
    }
}
