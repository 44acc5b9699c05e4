//! The rule of pausing and resuming one sandbox on its host: what its actor ([`crate::actor`]) does between its first answer and its end.
//!
//! How it works: [`step`] takes a phase and an event and answers the next phase and what is to be done. At most one piece of work is
//! under way; it always ends in an event, also when it is called off. Whoever asks for what is under way already joins it, whoever
//! asks for the opposite is refused with the state, a destroy wins. A pause has one point of no return: the generation is on disk and
//! written down (`Committed`). Before it a failure, or being called off, lets the VM go on; after it the VM's end is wanted.
//!
//! ```text
//!   Running ──pause──> Pausing ──committed──> Settling ──settled──> Paused ──resume──> Resuming ──resumed──> Running
//!      ^                  │ failed: the VM goes on                     ^                   │ failed: what was kept is as it was
//!      └──────────────────┘                                            └───────────────────┘
//!   destroy: at once from Running and Paused; else Cancelling until the work under way has ended; then Ending
//! ```
//!
//! Deliberately absent: preparing, booting, adopting and releasing (the actor's), and what an effect does.

/// Where a sandbox is between its first answer and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Its VM runs and is sampled.
    Running,
    /// A generation is being made; the VM can still go on.
    Pausing,
    /// The generation is written down; the VM is being ended.
    Settling,
    /// On disk, without a VM.
    Paused,
    /// A VM is being made of what was kept, which stays until it runs.
    Resuming,
    /// The work under way was called off by a destroy and has not ended yet.
    Cancelling,
    /// Everything is being given back: the actor's release.
    Ending,
}

impl Phase {
    /// For the refusal of what cannot be done now.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Pausing | Self::Settling => "pausing",
            Self::Paused => "paused",
            Self::Resuming => "resuming",
            Self::Cancelling | Self::Ending => "stopping",
        }
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// Somebody, or a limit, wants it paused.
    Pause,
    /// Somebody, or a use, wants it to run.
    Resume,
    /// Somebody, or a limit, wants it gone.
    Destroy,
    /// The generation is on disk and in the journal.
    Committed,
    /// The pause failed or was called off before that; the VM runs again.
    PauseFailed,
    /// The VM is gone after a committed pause.
    Settled,
    /// The VM runs and `/init` has repaired it.
    Resumed,
    /// The resume failed or was called off; nothing of its VM is left.
    ResumeFailed,
    /// The VMM or the keeper ended by itself.
    Ended,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Freeze, stop, write the generation, write it down; ends in `Committed`, `PauseFailed` or `Ended`.
    BeginPause,
    /// End the VM that is not needed any more; ends in `Settled`.
    Settle,
    /// Make a VM of what was kept; ends in `Resumed` or `ResumeFailed`.
    BeginResume,
    /// Call the work under way off; it still ends in its event.
    Cancel,
    /// The one who asked waits for the work under way.
    Join,
    /// The one who asked is told the phase: 409.
    Refuse,
    /// Tell who waits for the pause that it is paused, and the event stream.
    TellPaused,
    /// Tell who waits for the pause that it runs on.
    TellPauseFailed,
    /// Tell who waits for the resume that it runs.
    TellResumed,
    /// Tell who waits for the resume that it stays paused.
    TellResumeFailed,
    /// Give everything back.
    Release,
    /// Tell the event stream that it ended by itself.
    NoteEnd,
}

/// The rule.
pub fn step(phase: Phase, event: Event) -> (Phase, Vec<Effect>) {
    use Effect as Do;
    use Phase::{Cancelling, Ending, Paused, Pausing, Resuming, Running, Settling};
    match (phase, event) {
        (Running, Event::Pause) => (Pausing, vec![Do::BeginPause, Do::Join]),
        (Paused, Event::Resume) => (Resuming, vec![Do::BeginResume, Do::Join]),
        (Pausing | Settling, Event::Pause) | (Resuming, Event::Resume) => (phase, vec![Do::Join]),
        (_, Event::Pause | Event::Resume) => (phase, vec![Do::Refuse]),
        (Pausing, Event::Committed) => (Settling, vec![Do::Settle]),
        (Pausing, Event::PauseFailed) => (Running, vec![Do::TellPauseFailed]),
        // The VM died under the pause: there is no generation, and nothing to go on with.
        (Pausing, Event::Ended) => (Ending, vec![Do::TellPauseFailed, Do::NoteEnd, Do::Release]),
        (Settling, Event::Settled) => (Paused, vec![Do::TellPaused]),
        (Resuming, Event::Resumed) => (Running, vec![Do::TellResumed]),
        (Resuming, Event::ResumeFailed) => (Paused, vec![Do::TellResumeFailed]),
        (Running, Event::Ended) => (Ending, vec![Do::NoteEnd, Do::Release]),
        (Running | Paused, Event::Destroy) => (Ending, vec![Do::Release]),
        (Pausing, Event::Destroy) => (Cancelling, vec![Do::TellPauseFailed, Do::Cancel]),
        (Resuming, Event::Destroy) => (Cancelling, vec![Do::TellResumeFailed, Do::Cancel]),
        // Its VM is ending anyway; calling that off would only leave more to release.
        (Settling, Event::Destroy) => (Cancelling, vec![Do::TellPauseFailed]),
        (
            Cancelling,
            Event::Committed
            | Event::PauseFailed
            | Event::Settled
            | Event::Resumed
            | Event::ResumeFailed
            | Event::Ended,
        ) => (Ending, vec![Do::Release]),
        // A VMM that ends while it settles is what is wanted, one that ends while it resumes is seen by the resume itself; later
        // destroys join the first; the rest cannot happen.
        _ => (phase, vec![]),
    }
}
