//! What becomes of a sandbox that an earlier Atoll left on its host.
//!
//! How it works: the host reads the sandbox's journal into [`Traces`]; [`fate`] decides. What may still run is adopted, never
//! ended on a guess; what was never finished, or was to be given back, or cannot have outlived the machine's restart, is
//! given back. A directory that this version cannot read is left alone: a newer Atoll wrote it.
//!
//! Deliberately absent: processes. Whether a keeper is still there is found by asking it.

/// What a sandbox's journal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traces {
    /// What the sandbox is was written down.
    pub created: bool,
    /// There is an entry that this version does not know.
    pub foreign: bool,
    /// Keeper and VMM of its latest boot were written down.
    pub running: bool,
    /// That was since the machine's last restart.
    pub this_boot: bool,
    /// It was paused, and no VM that was made of what is kept came to run.
    pub paused: bool,
    /// It was to be given back.
    pub tombstone: bool,
    /// It began as a copy and its guest was never told who it is: it may still be taken for what it is a copy of.
    pub unnamed_copy: bool,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nothing but an empty directory: remove it and tell nobody.
    Discard,
    /// Not this version's to judge.
    LeaveAlone,
    /// Claim its keeper.
    Adopt,
    /// Make sure that no VM of it is left; it stays paused.
    KeepPaused,
    /// Go on giving it back, as the tombstone says.
    GoOn,
    /// Give it back and tell that Atoll ended while it was being made.
    HalfMade,
    /// Give it back and tell that the machine was restarted.
    Rebooted,
}

/// The rule.
pub fn fate(traces: Traces) -> Fate {
    match traces {
        Traces { foreign: true, .. } => Fate::LeaveAlone,
        Traces { created: false, .. } => Fate::Discard,
        Traces { tombstone: true, .. } => Fate::GoOn,
        Traces { paused: true, .. } => Fate::KeepPaused,
        Traces { running: false, .. } | Traces { unnamed_copy: true, .. } => Fate::HalfMade,
        Traces { this_boot: false, .. } => Fate::Rebooted,
        _ => Fate::Adopt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_runs_unmarked_in_this_boot_is_adopted_and_nothing_foreign_is_touched() {
        for bits in 0..128_u8 {
            let bit = |n: u8| bits & (1 << n) != 0;
            let traces = Traces {
                created: bit(0),
                foreign: bit(1),
                running: bit(2),
                this_boot: bit(3),
                tombstone: bit(4),
                paused: bit(5),
                unnamed_copy: bit(6),
            };
            let fate = fate(traces);
            assert_eq!(fate == Fate::LeaveAlone, traces.foreign, "{traces:?}");
            let ours = traces.created && !traces.tombstone && !traces.foreign;
            let alive = ours && traces.running && traces.this_boot && !traces.paused && !traces.unnamed_copy;
            assert_eq!(fate == Fate::Adopt, alive, "{traces:?}");
            assert_eq!(
                fate == Fate::KeepPaused,
                ours && traces.paused,
                "what is on disk outlives a restart: {traces:?}"
            );
            assert_eq!(fate == Fate::Discard, !traces.created && !traces.foreign, "{traces:?}");
        }
    }
}
