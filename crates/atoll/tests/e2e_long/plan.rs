//! What a cycle is to do, drawn from a seed.
//!
//! How it works: SplitMix64, so that a seed is all there is to a plan, whatever versions of anything.
//!
//! Deliberately absent: anything that depends on what happened before.

use std::fmt;

/// Numbers that follow from a seed.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// One step of a cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Deed {
    Pause,
    Resume,
    Snapshot,
    Create,
    Adopt,
}

/// Who dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Victim {
    /// The host agent.
    Atoll,
    /// The keeper of the sandbox that the step is about.
    Keeper,
    /// Its VMM.
    Vmm,
}

impl Victim {
    pub(crate) const ALL: [Self; 3] = [Self::Atoll, Self::Keeper, Self::Vmm];
    /// Atoll twice: it is what dies of its own mistakes.
    const DRAWN: [Self; 4] = [Self::Atoll, Self::Atoll, Self::Keeper, Self::Vmm];

    /// What the tally calls its death.
    pub(crate) fn killed(self) -> &'static str {
        match self {
            Self::Atoll => "Atoll killed",
            Self::Keeper => "keeper killed",
            Self::Vmm => "VMM killed",
        }
    }

    /// Of four kills so many are its own, on average.
    pub(crate) fn share_of_four(self) -> u64 {
        Self::DRAWN.iter().map(|drawn| u64::from(*drawn == self)).sum()
    }
}

/// Up to this share of an [`Deed::Adopt`] the host agent is killed while it stops, then while it starts.
pub(crate) const STARTS: u32 = 500;

/// A kill.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kill {
    pub(crate) deed: Deed,
    pub(crate) victim: Victim,
    /// When, in thousandths of the time that the step took when it was last let alone.
    pub(crate) share: u32,
}

impl Kill {
    /// Whether its victim may be gone by itself by then: what is paused has neither keeper nor VMM, and a host agent that stops ends.
    pub(crate) fn may_miss(self) -> bool {
        match (self.deed, self.victim) {
            (Deed::Pause, Victim::Keeper | Victim::Vmm) => true,
            (Deed::Adopt, Victim::Atoll) => self.share < STARTS,
            _ => false,
        }
    }
}

/// A cycle.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) number: u64,
    /// The template is made while the sandbox is paused.
    pub(crate) snapshot_paused: bool,
    pub(crate) kill: Option<Kill>,
}

impl Plan {
    /// Draws one; every second has a kill.
    pub(crate) fn draw(number: u64, random: &mut Random) -> Self {
        let deeds = [Deed::Pause, Deed::Resume, Deed::Snapshot, Deed::Create, Deed::Adopt];
        let snapshot_paused = random.below(3) == 0;
        let deed = deeds[usize::try_from(random.below(5)).unwrap()];
        let victim = Victim::DRAWN[usize::try_from(random.below(4)).unwrap()];
        let share = u32::try_from(random.below(1050)).unwrap();
        let kill = (number % 2 == 1).then_some(Kill { deed, victim, share });
        Self { number, snapshot_paused, kill }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cycle {}", self.number)?;
        if self.snapshot_paused {
            write!(f, ", template of the paused")?;
        }
        match self.kill {
            Some(Kill { deed, victim, share }) => write!(f, ", {victim:?} dies at {share}/1000 of {deed:?}"),
            None => Ok(()),
        }
    }
}
