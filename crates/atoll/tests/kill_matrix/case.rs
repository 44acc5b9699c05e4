//! The table: who dies at which side of which step, and in which act.
//!
//! How it works: made from the steps that the crates list. Each step has the act in which it is passed first ([`act`]); what several acts
//! do differently has cases in each of them ([`ALSO`]). What must have happened before stands in [`Case::prelude`]. A new step
//! appears here by itself.
//!
//! Deliberately absent: what an act does ([`super::acts`]).

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

/// What is led, so that a step is passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Act {
    /// Nothing: a start passes it.
    Start,
    /// Make a sandbox, work in it, end it.
    Make,
    /// One whose VMM is killed.
    OwnEnd,
    /// One that cannot be made.
    Fail,
    /// The resident is used.
    Use,
    /// The resident gets other limits.
    Limits,
    /// Make one, work in it, pause it.
    Pause,
    /// The same of one whose journal has grown long.
    PauseLong,
    /// The same of one whose agent answers nobody any more.
    PauseMute,
    /// The same of one that booted, until its memory is flat.
    Flatten,
    /// Its time is over, so that its host pauses it.
    Expire,
    /// The paused one goes on.
    Resume,
    /// It is to go on, and its VMM dies when its guest ran and its agent had not answered.
    ResumeFails,
    /// It boots from its disk, and its memory is given up.
    ResumeDisk,
    /// It is ended.
    EndPaused,
    /// A template of one that runs, a sandbox from it, its end.
    Template,
    /// A template of the paused one.
    TemplateOfPaused,
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
    /// Doing what.
    pub(crate) act: Act,
}

/// What a start needs to have found for a step to be passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Prelude {
    /// Nothing but the resident.
    Nothing,
    /// A data directory that was never used.
    Fresh,
    /// An Atoll that led this to its end.
    Led(Act),
    /// One that died at this place while it led this, after what that needs.
    Died(&'static str, Act),
}

/// The act in which a step is passed first; a new step is looked for in the life of a sandbox that is neither paused nor copied.
fn act(step: &str) -> Act {
    match step {
        "tx.first-start"
        | "tx.reconcile-running"
        | "tx.reconcile-over"
        | "tx.reconcile-paused"
        | "tx.reconcile-resumed"
        | "tx.operation-resumed"
        | "host.adopt" => Act::Start,
        "tx.host-event" | "journal.told" | "host.event" | "host.acknowledge" => Act::OwnEnd,
        "tx.create-failed" => Act::Fail,
        "tx.uses" => Act::Use,
        "tx.lifetime-intent" | "tx.lifetime-done" | "journal.lifetime" => Act::Limits,
        "tx.pause-intent" | "tx.pause-done" | "journal.pausing" | "journal.paused" | "host.freeze"
        | "host.snapshot" | "host.manifest" => Act::Pause,
        "tx.resume-intent" | "tx.resume-done" | "journal.resuming" | "host.tidy" => Act::Resume,
        "journal.flattened" => Act::Flatten,
        "journal.compact" => Act::PauseLong,
        "journal.memory-lost" => Act::ResumeDisk,
        "tx.snapshot-intent"
        | "tx.snapshot-done"
        | "tx.template-removed"
        | "tx.template-gone"
        | "journal.copying"
        | "object.make"
        | "object.remove" => Act::Template,
        _ => Act::Make,
    }
}

/// Steps that another act passes, too, with something else at stake.
const ALSO: &[(Act, &[&str])] = &[
    // What an earlier Atoll left half made, half up or half ended.
    (Act::Start, &["host.init", "journal.repaired", "journal.tombstone", "host.remove-directory"]),
    (Act::Pause, &["host.end-keeper", "host.remove-groups", "host.remove-network", "host.slot-release"]),
    (
        Act::Resume,
        &[
            "host.slot-claim",
            "journal.boot",
            "host.spec",
            "host.spawn",
            "host.claim",
            "host.secrets",
            "journal.running",
            "host.continue",
            "host.init",
            "journal.repaired",
        ],
    ),
    // Where what had begun to run is given up.
    (Act::ResumeFails, &["journal.paused", "host.remove-network"]),
    (
        Act::ResumeDisk,
        &["host.spawn", "journal.running", "host.init", "journal.repaired", "host.tidy", "object.release"],
    ),
    (Act::Template, &["host.snapshot", "host.manifest", "object.release"]),
    (Act::TemplateOfPaused, &["object.make", "host.manifest", "tx.snapshot-done"]),
    (Act::EndPaused, &["tx.destroy-intent", "journal.tombstone", "host.remove-directory", "tx.destroy-done"]),
    (Act::Expire, &["tx.host-event", "journal.told", "journal.paused", "host.event"]),
];

/// Steps on the way of a sandbox that boots; behind them it boots, before them it is restored from a golden.
const BOOTING: &[&str] = &[
    "journal.create",
    "host.slot-claim",
    "host.make",
    "journal.boot",
    "host.spec",
    "host.spawn",
    "host.claim",
    "host.secrets",
    "journal.running",
    "host.init",
    "journal.repaired",
];

/// Steps of a resume from which on the guest may have run.
const HAS_RUN: &[&str] =
    &["journal.running", "host.continue", "host.init", "journal.repaired", "host.tidy", "tx.resume-done"];

impl Case {
    /// The failpoint's name.
    pub(crate) fn place(&self) -> String {
        format!("{}.{}", self.step, self.edge)
    }

    /// The idempotency key of what its life asks for: a world outlives its cases, and no two share a name.
    pub(crate) fn key(&self) -> String {
        self.to_string()
    }

    /// Whether the sandbox that it makes boots.
    pub(crate) fn boots_cold(&self) -> bool {
        let behind = self.act == Act::Make && self.edge == "after" && BOOTING.contains(&self.step);
        behind || self.must_boot_cold()
    }

    /// Whether the place is passed only where it boots. A copy whose guest was not told who it is before its Atoll died is not taken over.
    pub(crate) fn must_boot_cold(&self) -> bool {
        let taken_over = self.act == Act::Start && matches!(self.step, "host.init" | "journal.repaired");
        taken_over || self.act == Act::Flatten
    }

    /// What must have happened before.
    pub(crate) fn prelude(&self) -> Prelude {
        match self.step {
            "tx.first-start" => Prelude::Fresh,
            "tx.reconcile-running" => Prelude::Died("tx.create-done.before", Act::Make),
            "tx.reconcile-over" => Prelude::Died("tx.create-intent.after", Act::Make),
            "tx.reconcile-paused" => Prelude::Died("tx.pause-done.before", Act::Pause),
            "tx.reconcile-resumed" => Prelude::Died("tx.resume-done.before", Act::Resume),
            "tx.operation-resumed" => Prelude::Died("tx.destroy-intent.after", Act::Make),
            "host.init" | "journal.repaired" if self.act == Act::Start => {
                Prelude::Died("journal.running.after", Act::Make)
            }
            "journal.tombstone" if self.act == Act::Start => Prelude::Died("host.make.after", Act::Make),
            "host.remove-directory" if self.act == Act::Start => Prelude::Died("journal.tombstone.after", Act::Make),
            _ if self.act == Act::ResumeFails => Prelude::Led(Act::PauseMute),
            _ if self.act.needs_paused() => Prelude::Led(Act::Pause),
            _ => Prelude::Nothing,
        }
    }

    /// Whether the sandbox may be over. Not where its life had not begun again when its keeper or VMM died: it has its disk.
    pub(crate) fn may_end(&self, killed: bool) -> bool {
        killed && self.act != Act::ResumeFails
    }

    /// Whether the memory of what is kept may be given up in it without being asked for: the VM that was made of it dies when its guest
    /// may have run already.
    pub(crate) fn may_lose_memory(&self) -> bool {
        self.act == Act::Resume && self.victim != Victim::Atoll && HAS_RUN.contains(&self.step)
    }
}

impl Act {
    /// Whether it begins with a paused sandbox.
    pub(crate) fn needs_paused(self) -> bool {
        matches!(self, Self::Resume | Self::ResumeFails | Self::ResumeDisk | Self::EndPaused | Self::TemplateOfPaused)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Make => "make",
            Self::OwnEnd => "own-end",
            Self::Fail => "fail",
            Self::Use => "use",
            Self::Limits => "limits",
            Self::Pause => "pause",
            Self::PauseLong => "pause-long",
            Self::PauseMute => "pause-mute",
            Self::Flatten => "flatten",
            Self::Expire => "expire",
            Self::Resume => "resume",
            Self::ResumeFails => "resume-fails",
            Self::ResumeDisk => "resume-disk",
            Self::EndPaused => "end-paused",
            Self::Template => "template",
            Self::TemplateOfPaused => "template-of-paused",
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
        write!(f, "{}/{}/{victim}", self.place(), self.act.name())
    }
}

/// All of them.
pub(crate) fn cases() -> Vec<Case> {
    let store = atoll_store::Step::ALL.iter().map(|step| step.name());
    let control = atoll_control::Step::ALL.iter().map(|step| step.name());
    let host = atoll_host::Step::ALL.iter().map(|step| step.name());
    let first = store.chain(control).chain(host).map(|step| (step, act(step)));
    let also = ALSO.iter().flat_map(|(act, steps)| steps.iter().map(|step| (*step, *act)));
    let passed: Vec<(&'static str, Act)> = first.chain(also).collect();
    let mut out = Vec::new();
    for victim in [Victim::Atoll, Victim::Keeper, Victim::Vmm] {
        for (step, act) in &passed {
            out.extend(["before", "after"].map(|edge| Case { step, edge, victim, act: *act }));
        }
    }
    out
}
