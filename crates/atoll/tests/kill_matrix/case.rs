//! The table: who dies at which side of which step.
//!
//! How it works: made from the steps that the crates list; what must happen before a step can be passed stands in [`Case::prelude`].
//! A new step appears here by itself.
//!
//! Deliberately absent: steps, but for those that wait for a life ([`NOT_LED`]).

use std::fmt;

/// Who dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Victim {
    /// Atoll itself.
    Atoll,
    /// The keeper of the sandbox that the step is about, if it has one by then.
    Keeper,
    /// Its VMM.
    Vmm,
}

/// One case.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// The step's name.
    pub(crate) step: &'static str,
    /// `before` or `after`.
    pub(crate) edge: &'static str,
    /// Who dies.
    pub(crate) victim: Victim,
}

/// What a start needs to have found for a step to be passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Prelude {
    /// Nothing but the resident.
    Nothing,
    /// A data directory that was never used.
    Fresh,
    /// An Atoll that died there while it made a sandbox.
    DiedCreating(&'static str),
    /// An Atoll that died there while it ended one.
    DiedDestroying(&'static str),
}

impl Case {
    /// The failpoint's name.
    pub(crate) fn place(&self) -> String {
        format!("{}.{}", self.step, self.edge)
    }

    /// The idempotency key of what its life asks for: a world outlives its cases, and no two share a name.
    pub(crate) fn key(&self) -> String {
        self.to_string()
    }

    /// What must have happened before.
    pub(crate) fn prelude(&self) -> Prelude {
        match self.step {
            "tx.first-start" => Prelude::Fresh,
            "tx.reconcile-running" => Prelude::DiedCreating("tx.create-done.before"),
            "tx.reconcile-over" => Prelude::DiedCreating("tx.create-intent.after"),
            "tx.operation-resumed" => Prelude::DiedDestroying("tx.destroy-intent.after"),
            _ => Prelude::Nothing,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let victim = match self.victim {
            Victim::Atoll => "atoll",
            Victim::Keeper => "keeper",
            Victim::Vmm => "vmm",
        };
        write!(f, "{}/{victim}", self.place())
    }
}

/// Steps that no life passes yet: those of pausing, resuming and templates, whose lives come with their own tests. What stands neither
/// here nor in a life fails `every_step_there_is_is_passed_by_a_life`.
const NOT_LED: &[&str] = &[
    "tx.pause-intent",
    "tx.pause-done",
    "tx.resume-intent",
    "tx.resume-done",
    "tx.lifetime-intent",
    "tx.lifetime-done",
    "tx.snapshot-intent",
    "tx.snapshot-done",
    "tx.template-removed",
    "tx.template-gone",
    "tx.reconcile-paused",
    "tx.reconcile-resumed",
    "journal.pausing",
    "journal.paused",
    "journal.flattened",
    "journal.resuming",
    "journal.memory-lost",
    "journal.repaired",
    "journal.lifetime",
    "host.freeze",
    "host.snapshot",
    "host.manifest",
    "host.continue",
    "host.tidy",
    "object.make",
    "object.hold",
    "object.release",
    "object.remove",
];

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    let store = atoll_store::Step::ALL.iter().map(|step| step.name());
    let control = atoll_control::Step::ALL.iter().map(|step| step.name());
    let host = atoll_host::Step::ALL.iter().map(|step| step.name());
    let mut out = Vec::new();
    for victim in [Victim::Atoll, Victim::Keeper, Victim::Vmm] {
        for step in store.clone().chain(control.clone()).chain(host.clone()).filter(|step| !NOT_LED.contains(step)) {
            out.extend(["before", "after"].map(|edge| Case { step, edge, victim }));
        }
    }
    out
}
