//! The state machine of one sandbox on its host.
//!
//! How it works: [`step`] takes a state and an event and answers the next state and what is to be done. The host's actor feeds it and
//! carries the effects out, one at a time; everything that takes long ends in an event.
//!
//! ```text
//!   Preparing ──prepared──> Booting(1) ──booted──> Running ──ended / destroy──> Releasing ──released──> Gone
//!       │ failed               │ failed: Booting(2), then                          ^  │ failed
//!       └──────────────────────┴────────────────────────────────────────────────-─┘  └──> Stuck ──destroy──> Releasing
//!   destroy while Preparing or Booting: Cancelling until the work under way has ended, then Releasing
//! ```
//!
//! Destroy wins over everything: whatever is under way is called off and released, and a create that waits is told so.
//!
//! Deliberately absent: what an effect does.

/// How often a boot is tried.
pub const BOOT_TRIES: u8 = 2;

/// Where a sandbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Slot, directory, disk, network and groups are being made.
    Preparing,
    /// The VMM starts; the try, counted from 1.
    Booting(u8),
    /// The guest agent answers.
    Running,
    /// The work under way was called off and has not ended yet.
    Cancelling,
    /// Everything is being given back.
    Releasing,
    /// Giving back failed; tried again at the next destroy.
    Stuck,
    /// Nothing is left.
    Gone,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// What a boot needs is there.
    Prepared,
    /// The agent answers.
    Booted,
    /// Preparing or booting failed, or ended because it was called off.
    WorkFailed,
    /// Somebody wants it gone.
    Destroy,
    /// The VMM or the keeper ended.
    Ended,
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
    /// Note in the event stream that it ended by itself.
    NoteEnd,
}

/// The first state and the first thing to do.
pub fn begin() -> (State, Vec<Effect>) {
    (State::Preparing, vec![Effect::Prepare])
}

/// The rule.
pub fn step(state: State, event: Event) -> (State, Vec<Effect>) {
    use Effect as Do;
    use State::{Booting, Cancelling, Gone, Preparing, Releasing, Running, Stuck};
    match (state, event) {
        (Preparing, Event::Prepared) => (Booting(1), vec![Do::Boot(1)]),
        (Preparing, Event::WorkFailed) => (Releasing, vec![Do::Release]),
        (Booting(_), Event::Booted) => (Running, vec![Do::CreateDone]),
        (Booting(n), Event::WorkFailed) if n < BOOT_TRIES => (Booting(n + 1), vec![Do::Boot(n + 1)]),
        (Booting(_), Event::WorkFailed) => (Releasing, vec![Do::Release]),
        (Preparing | Booting(_), Event::Destroy) => (Cancelling, vec![Do::Cancel]),
        (Cancelling, Event::Prepared | Event::Booted | Event::WorkFailed) => (Releasing, vec![Do::Release]),
        (Running, Event::Destroy) => (Releasing, vec![Do::Release]),
        (Running, Event::Ended) => (Releasing, vec![Do::NoteEnd, Do::Release]),
        (Releasing, Event::Released) => (Gone, vec![Do::CreateFailed, Do::DestroyDone]),
        (Releasing, Event::ReleaseFailed) => (Stuck, vec![Do::CreateFailed, Do::DestroyFailed]),
        (Stuck, Event::Destroy) => (Releasing, vec![Do::Release]),
        (Gone, Event::Destroy) => (Gone, vec![Do::DestroyDone]),
        // A VMM that ends while it boots is seen by the boot itself; later destroys join the first; the rest cannot happen.
        (state, _) => (state, vec![]),
    }
}
