//! The state machine of one sandbox on its host.
//!
//! How it works: [`step`] takes a state and an event and answers the next state and what is to be done. The host's actor feeds it and
//! carries the effects out, one at a time; everything that takes long ends in an event.
//!
//! ```text
//!   Preparing ──prepared──> Booting(1) ──booted──> Running ──ended / destroy──> Releasing ──released──> Gone
//!       │ failed               │ failed: Booting(2), then                          ^  │ failed
//!       └──────────────────────┴────────────────────────────────────────────────-─┘  └──> Stuck ──destroy──> Releasing
//!
//!   Running ──pause──> Pausing ──committed──> Settling ──settled──> Paused ──resume──> Resuming ──resumed──> Running
//!      ^                  │ failed: the VM goes on                     ^                   │ failed: what was kept is as it was
//!      └──────────────────┘                                            └───────────────────┘
//!   Running ──copy──> Copying ──copied / failed──> Running             Paused ──copy──> CopyingPaused ──> Paused
//!
//!   destroy while work is under way: Cancelling until that has ended, then Releasing
//!
//!   after a restart of Atoll:  Adopting ──adopted──> Running        its keeper is gone: Releasing
//!                                  │──its keeper is too new, or cannot be claimed now──> Refused ──destroy──> Releasing
//!                                  └──its VM ended in a resume that was under way──> Settling
//!                              Settling ──settled──> Paused         what was paused, or was being resumed
//!   when Atoll stops and keeps VMs:  Running, Paused, Adopting, Refused, Stuck ──leave──> Left
//! ```
//!
//! Destroy wins over everything: whatever is under way is called off and released, and a create that waits is told so.
//! Whoever asks for what is under way already joins it, whoever asks for the opposite is refused with the state; a pause or a resume that
//! is asked for while a template is made waits for the template's end ([`State::keeps_for_later`]). A pause has one
//! point of no return: the generation is on disk and written down (`Committed`). Before it a failure, or being called off, lets
//! the VM go on; after it the VM's end is wanted. A leave ends the actor, not the sandbox; what is half made is released first.
//!
//! Deliberately absent: what an effect does.

/// How often a boot is tried.
pub const BOOT_TRIES: u8 = 2;

/// How an actor comes to its sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// It is to be made.
    New,
    /// An earlier Atoll left it running.
    Running,
    /// It was paused, or was being resumed and did not come to run.
    Paused,
    /// An earlier Atoll left something that is to be given back.
    Remains,
    /// A newer Atoll wrote down what this one does not understand.
    Foreign,
}

/// Where a sandbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Slot, directory, disk, network and groups are being made.
    Preparing,
    /// The VMM starts; the try, counted from 1.
    Booting(u8),
    /// An earlier Atoll started it; its keeper is being claimed.
    Adopting,
    /// The guest agent answers.
    Running,
    /// A generation is being made; the VM can still go on.
    Pausing,
    /// The generation is written down; the VM, if there is one, is being ended.
    Settling,
    /// On disk, without a VM.
    Paused,
    /// A VM is being made of what was kept, which stays until it runs.
    Resuming,
    /// A template is being made of the running VM.
    Copying,
    /// A template is being made of what is kept.
    CopyingPaused,
    /// It may run under a keeper that this Atoll does not understand, or could not claim, and is left alone.
    Refused,
    /// The work under way was called off and has not ended yet.
    Cancelling,
    /// Everything is being given back.
    Releasing,
    /// Giving back failed; tried again at the next destroy, which the control plane's comparison asks for.
    Stuck,
    /// Nothing is left.
    Gone,
    /// It runs on without this Atoll.
    Left,
}

impl State {
    /// Whether its actor has nothing more to do.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Gone | Self::Left)
    }

    /// Whether a leave must wait for the work under way, which ends by itself or was called off with the leave.
    pub fn holds_back_a_leave(self) -> bool {
        matches!(
            self,
            Self::Cancelling
                | Self::Releasing
                | Self::Pausing
                | Self::Settling
                | Self::Resuming
                | Self::Copying
                | Self::CopyingPaused
        )
    }

    /// Whether what is asked is kept until the work under way has ended: a sandbox that a template is made of is afterwards as it was.
    pub fn keeps_for_later(self, event: Event) -> bool {
        match self {
            Self::Copying => event == Event::Pause,
            Self::CopyingPaused => event == Event::Resume,
            _ => false,
        }
    }

    /// For the refusal of what cannot be done now.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preparing | Self::Booting(_) | Self::Adopting | Self::Refused => "starting",
            Self::Running | Self::Left => "running",
            Self::Pausing | Self::Settling => "pausing",
            Self::Paused => "paused",
            Self::Resuming => "resuming",
            Self::Copying | Self::CopyingPaused => "being copied",
            Self::Cancelling | Self::Releasing => "stopping",
            Self::Stuck => "stuck",
            Self::Gone => "stopped",
        }
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// What a boot needs is there.
    Prepared,
    /// The agent answers.
    Booted,
    /// The keeper was claimed and the VMM runs.
    Adopted,
    /// The keeper is too new for this Atoll.
    TooNew,
    /// Its VM ended in a resume that had not come to its end: its disk is what is left of it.
    FellBack,
    /// Preparing or booting failed, or any work ended because it was called off.
    WorkFailed,
    /// Somebody, or a limit, wants it paused.
    Pause,
    /// The generation is on disk and in the journal.
    Committed,
    /// The pause failed or was called off before that; the VM runs again.
    PauseFailed,
    /// No VM is left of what was paused.
    Settled,
    /// Somebody, or a use, wants it to run.
    Resume,
    /// The VM runs and `/init` has repaired it.
    Resumed,
    /// The resume failed or was called off; nothing of its VM is left.
    ResumeFailed,
    /// Somebody wants a template of it.
    Copy,
    /// The template stands, or could not be made; the sandbox is as it was.
    CopyEnded,
    /// Somebody, or a limit, wants it gone.
    Destroy,
    /// The VMM or the keeper ended, or hangs.
    Ended,
    /// Atoll stops; what runs shall go on.
    Leave,
    /// Everything is given back.
    Released,
    /// Something could not be given back.
    ReleaseFailed,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Make what a boot needs; ends in `Prepared` or `WorkFailed`.
    Prepare,
    /// Start the VMM and wait for the agent; ends in `Booted` or `WorkFailed`.
    Boot(u8),
    /// Claim the keeper that is there; ends in `Adopted`, `TooNew`, `FellBack`, `Ended` or `WorkFailed`.
    Adopt,
    /// Freeze, stop, write the generation, write it down; ends in `Committed`, `PauseFailed` or `Ended`.
    BeginPause,
    /// End the VM that is not needed any more; ends in `Settled`.
    Settle,
    /// Make a VM of what was kept; ends in `Resumed` or `ResumeFailed`.
    BeginResume,
    /// Make a template; ends in `CopyEnded`, or in `Ended`.
    BeginCopy,
    /// The one who asked waits for the work under way, or for the answer that follows.
    Join,
    /// The one who asked is told the state.
    Refuse,
    /// Tell who waits for the pause that it is paused.
    TellPaused,
    /// Tell who waits for the pause that it runs on.
    TellPauseFailed,
    /// Tell who waits for the resume that it runs.
    TellResumed,
    /// Tell who waits for the resume that it stays paused.
    TellResumeFailed,
    /// Tell who waits for the template what came of it.
    TellCopied,
    /// Call the work under way off; it still ends in its event.
    Cancel,
    /// Give everything back; ends in `Released` or `ReleaseFailed`.
    Release,
    /// Tell who waits for the create that it runs.
    CreateDone,
    /// Tell who waits for the create that it failed, if anybody still does.
    CreateFailed,
    /// Tell who waits for the destroy that nothing is left.
    DestroyDone,
    /// Tell who waits for the destroy why something is left.
    DestroyFailed,
    /// Note that it ended by itself, for the event stream.
    NoteEnd,
    /// Drop the keeper's connection and whatever is under way; everything stays as it is.
    LetGo,
}

/// The first state and the first thing to do.
pub fn begin(origin: Origin) -> (State, Vec<Effect>) {
    match origin {
        Origin::New => (State::Preparing, vec![Effect::Prepare]),
        Origin::Running => (State::Adopting, vec![Effect::Adopt]),
        Origin::Paused => (State::Settling, vec![Effect::CreateDone, Effect::Settle]),
        Origin::Remains => (State::Releasing, vec![Effect::Release]),
        Origin::Foreign => (State::Refused, vec![]),
    }
}

/// The rule.
pub fn step(state: State, event: Event) -> (State, Vec<Effect>) {
    match event {
        Event::Pause | Event::Resume | Event::Copy => asked(state, event),
        Event::Destroy => destroy(state),
        Event::Leave => leave(state),
        _ => went_on(state, event),
    }
}

/// Somebody asks for a change; exactly one of `Join` and `Refuse` is among the effects.
fn asked(state: State, event: Event) -> (State, Vec<Effect>) {
    use Effect as Do;
    use State::{Copying, CopyingPaused, Paused, Pausing, Resuming, Running, Settling};
    match (state, event) {
        (Running, Event::Pause) => (Pausing, vec![Do::Join, Do::BeginPause]),
        (Pausing | Settling, Event::Pause) | (Resuming, Event::Resume) => (state, vec![Do::Join]),
        (Paused, Event::Pause) => (Paused, vec![Do::Join, Do::TellPaused]),
        (Paused, Event::Resume) => (Resuming, vec![Do::Join, Do::BeginResume]),
        (Running, Event::Resume) => (Running, vec![Do::Join, Do::TellResumed]),
        (Running, Event::Copy) => (Copying, vec![Do::Join, Do::BeginCopy]),
        (Paused, Event::Copy) => (CopyingPaused, vec![Do::Join, Do::BeginCopy]),
        _ => (state, vec![Do::Refuse]),
    }
}

fn destroy(state: State) -> (State, Vec<Effect>) {
    use Effect as Do;
    use State::{
        Adopting, Booting, Cancelling, Copying, CopyingPaused, Gone, Paused, Pausing, Preparing, Refused, Releasing,
        Resuming, Running, Settling, Stuck,
    };
    match state {
        Preparing | Booting(_) | Adopting => (Cancelling, vec![Do::Cancel]),
        Pausing => (Cancelling, vec![Do::TellPauseFailed, Do::Cancel]),
        // Its VM is ending anyway; calling that off would only leave more to release.
        Settling => (Cancelling, vec![Do::TellPauseFailed]),
        Resuming => (Cancelling, vec![Do::TellResumeFailed, Do::Cancel]),
        Copying | CopyingPaused => (Cancelling, vec![Do::TellCopied, Do::Cancel]),
        Running | Paused | Refused | Stuck => (Releasing, vec![Do::Release]),
        Gone => (Gone, vec![Do::DestroyDone]),
        // Later destroys join the first.
        _ => (state, vec![]),
    }
}

fn leave(state: State) -> (State, Vec<Effect>) {
    use State::{Adopting, Booting, Cancelling, Left, Paused, Preparing, Refused, Running, Stuck};
    match state {
        Preparing | Booting(_) => (Cancelling, vec![Effect::Cancel]),
        Running | Paused | Adopting | Refused | Stuck => (Left, vec![Effect::LetGo]),
        _ => (state, vec![]),
    }
}

/// Work ended, or the VM did.
fn went_on(state: State, event: Event) -> (State, Vec<Effect>) {
    use Effect as Do;
    use State::{
        Adopting, Booting, Cancelling, Copying, CopyingPaused, Gone, Paused, Pausing, Preparing, Refused, Releasing,
        Resuming, Running, Settling, Stuck,
    };
    match (state, event) {
        (Preparing, Event::Prepared) => (Booting(1), vec![Do::Boot(1)]),
        (Preparing, Event::WorkFailed) => (Releasing, vec![Do::Release]),
        (Booting(_), Event::Booted) => (Running, vec![Do::CreateDone]),
        (Booting(n), Event::WorkFailed) if n < BOOT_TRIES => (Booting(n + 1), vec![Do::Boot(n + 1)]),
        (Booting(_), Event::WorkFailed) => (Releasing, vec![Do::Release]),
        (Adopting, Event::Adopted) => (Running, vec![Do::CreateDone]),
        // Nothing that may live is ended on a guess: the next start tries again, and its owner can destroy it.
        (Adopting, Event::TooNew | Event::WorkFailed) => (Refused, vec![]),
        // As if the Atoll that resumed it had lived to see it fail.
        (Adopting, Event::FellBack) => (Settling, vec![Do::CreateDone, Do::Settle]),
        (Pausing, Event::Committed) => (Settling, vec![Do::Settle]),
        (Pausing, Event::PauseFailed) => (Running, vec![Do::TellPauseFailed]),
        // The VM died under it: there is no generation, and nothing to go on with.
        (Pausing, Event::Ended) => (Releasing, vec![Do::TellPauseFailed, Do::NoteEnd, Do::Release]),
        (Settling, Event::Settled) => (Paused, vec![Do::TellPaused]),
        (Resuming, Event::Resumed) => (Running, vec![Do::TellResumed]),
        (Resuming, Event::ResumeFailed) => (Paused, vec![Do::TellResumeFailed]),
        // It ran already when it died, so what was kept is not the sandbox any more.
        (Resuming, Event::Ended) => (Releasing, vec![Do::TellResumeFailed, Do::NoteEnd, Do::Release]),
        (Copying, Event::CopyEnded) => (Running, vec![Do::TellCopied]),
        (Copying, Event::Ended) => (Releasing, vec![Do::TellCopied, Do::NoteEnd, Do::Release]),
        (CopyingPaused, Event::CopyEnded) => (Paused, vec![Do::TellCopied]),
        (Running | Adopting, Event::Ended) => (Releasing, vec![Do::NoteEnd, Do::Release]),
        // Whatever the work that was called off came to.
        (Cancelling, event) if event != Event::Released && event != Event::ReleaseFailed => {
            (Releasing, vec![Do::Release])
        }
        (Releasing, Event::Released) => (Gone, vec![Do::CreateFailed, Do::DestroyDone]),
        (Releasing, Event::ReleaseFailed) => (Stuck, vec![Do::CreateFailed, Do::DestroyFailed]),
        // A VMM that ends while it boots or settles is seen by that work itself; the rest cannot happen.
        _ => (state, vec![]),
    }
}
