//! The guest's ticks against the time that passed.
//!
//! How it works: beside all that it does the worker counts, once in [`TICK`] of the guest's clock at the most. From one look to the next
//! of a sandbox with the same memory the count goes on and never back, and never further than the time allows in which the sandbox
//! was not paused. That time is rather too long than too short: from before the one look to after the other, without what is surely
//! a pause.
//!
//! Deliberately absent: a least rate. A guest on a loaded machine counts slowly.

use std::time::{Duration, Instant};

use crate::guest::Found;

/// Least time from one tick to the next.
const TICK: Duration = Duration::from_millis(50);
/// In so many steps of the worker, each of which sleeps as long as a tick does, there is one.
const STEPS: u64 = 10;
/// For ticks that were due just then.
const SLACK: Duration = Duration::from_secs(1);

/// What the last look saw.
#[derive(Debug)]
struct Seen {
    id: String,
    ticks: u64,
    ack: u64,
    asked: Instant,
}

/// How the ticks go.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    last: Option<Seen>,
    /// Since when the sandbox is known to be paused.
    paused: Option<Instant>,
    /// How long it was since the last look.
    stood: Duration,
}

impl Pace {
    /// The sandbox is seen to be paused.
    pub(crate) fn stands(&mut self) {
        self.paused = Some(Instant::now());
    }

    /// It is about to be resumed, or may run by now.
    pub(crate) fn goes_on(&mut self) {
        self.stood += self.paused.take().map_or(Duration::ZERO, |since| since.elapsed());
    }

    /// Its memory is lost, so it counts from the beginning.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Holds what a look found against the look before it; it was asked for at that time and has just been answered.
    pub(crate) fn follow(&mut self, id: &str, found: &Found, asked: Instant) -> Result<(), String> {
        let (ticks, ack) = (found.ticks.last, found.ack);
        let stood = std::mem::take(&mut self.stood);
        let last = self.last.replace(Seen { id: id.to_owned(), ticks, ack, asked });
        let Some(last) = last.filter(|last| last.id == id) else { return Ok(()) };
        let Some(counted) = ticks.checked_sub(last.ticks) else {
            return Err(format!("the ticks went back from {} to {ticks}", last.ticks));
        };
        if counted == 0 && ack >= last.ack + STEPS {
            return Err(format!("the ticks stand still at {ticks}, while {} became {ack}", last.ack));
        }
        let ran = last.asked.elapsed().saturating_sub(stood);
        // The guest has measured the rate of its clock itself, and may have it a little too fast.
        let most = ran + ran / 5 + SLACK;
        if u128::from(counted) * TICK.as_millis() > most.as_millis() {
            return Err(format!("{counted} ticks in {ran:?}, not counting {stood:?} of pauses"));
        }
        Ok(())
    }
}
