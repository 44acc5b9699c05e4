//! A clock that is set by hand.
//!
//! How it works: each reading is one microsecond after the last, so that rows keep an order; [`ManualClock::advance`] lets time pass,
//! [`ManualClock::jump`] sets the wall clock alone, as an operator or a time server does, and [`ManualClock::freeze`] makes all
//! readings the same, for what must hold when times are equal.
//!
//! Deliberately absent: timers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use atoll_control::ports::Clock;

#[derive(Debug, Default)]
struct Inner {
    now: AtomicI64,
    steady: AtomicI64,
    frozen: AtomicBool,
}

/// Microseconds since 1970 that only move when they are read or told to.
#[derive(Debug, Clone, Default)]
pub struct ManualClock(Arc<Inner>);

impl ManualClock {
    /// A clock that stands at so many microseconds.
    pub fn at(micros: i64) -> Self {
        let clock = Self::default();
        clock.0.now.store(micros, Ordering::SeqCst);
        clock
    }

    /// Lets time pass, on both clocks.
    pub fn advance(&self, micros: i64) {
        assert!(micros >= 0, "time does not go back; `jump` sets the wall clock");
        self.jump(micros);
        self.0.steady.fetch_add(micros, Ordering::SeqCst);
    }

    /// Sets the wall clock, in either direction; no time passes.
    pub fn jump(&self, micros: i64) {
        self.0.now.fetch_add(micros, Ordering::SeqCst);
    }

    /// Makes all further readings equal, or lets it tick again.
    pub fn freeze(&self, frozen: bool) {
        self.0.frozen.store(frozen, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_micros(&self) -> i64 {
        let step = i64::from(!self.0.frozen.load(Ordering::SeqCst));
        self.0.now.fetch_add(step, Ordering::SeqCst)
    }

    fn steady_micros(&self) -> i64 {
        self.0.steady.load(Ordering::SeqCst)
    }
}
