//! The two clocks of this machine.
//!
//! How it works: the wall clock for what is written down, CLOCK_BOOTTIME for limits: it never jumps and goes on while the machine sleeps.
//!
//! Deliberately absent: what a limit is (`atoll_domain::ttl`).

use std::time::{SystemTime, UNIX_EPOCH};

use atoll_domain::ttl::Now;
use nix::time::{ClockId, clock_gettime};

/// Both, read together.
pub(crate) fn now() -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { wall: i64::try_from(wall.as_micros()).unwrap_or(i64::MAX), steady: steady() }
}

/// Milliseconds since the machine's boot.
pub(crate) fn steady() -> u64 {
    // The clock is there on every kernel that runs this; without it no limit would ever be reached.
    let read = clock_gettime(ClockId::CLOCK_BOOTTIME).map(|time| std::time::Duration::from(time).as_millis());
    read.map_or(0, |millis| u64::try_from(millis).unwrap_or(u64::MAX))
}
