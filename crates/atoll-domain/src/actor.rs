//! The state machine of one sandbox on its host.
//!
//! How it works: [`step`] takes a state and an event and answers the next state and what is to be done. The host's actor feeds it and
//! carries the effects out, one at a time; everything that takes long ends in an event.
//!
//! ```text
//!   Preparing ──prepared──> Booting(1) ──booted──> Running ──ended / destroy──> Releasing ──released──> Gone
//!       │ failed               │ failed: Booting(2), then                          ^  │ failed
//!       └──────────────────────┴────────────────────────────────────────────────-─┘  └──> Stuck ──destroy──> Releasing
//!   destroy while Preparing, Booting or Adopting: Cancelling until the work under way has ended, then Releasing
//!
//!   after a restart of Atoll:  Adopting ──adopted──> Running        its keeper is gone: Releasing
//!                                  └──its keeper is too new──> Refused ──destroy──> Releasing
//!   when Atoll stops and keeps VMs:  Running, Adopting, Refused, Stuck ──leave──> Left
//! ```
//!
//! Destroy wins over everything: whatever is under way is called off and released, and a create that waits is told so.
//! A leave ends the actor, not the sandbox; what is half made is released first.
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
    /// An earlier Atoll left something that is to be given back.
    Remains,
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
    /// It runs under a keeper that is newer than this Atoll and is left alone.
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
    /// Preparing or booting failed, or any work ended because it was called off.
    WorkFailed,
    /// Somebody wants it gone.
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
    /// Claim the keeper that is there; ends in `Adopted`, `TooNew`, `Ended` or `WorkFailed`.
    Adopt,
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
        Origin::Remains => (State::Releasing, vec![Effect::Release]),
    }
}

/// The rule.
pub fn step(state: State, event: Event) -> (State, Vec<Effect>) {
    use Effect as Do;
    use State::{Adopting, Booting, Cancelling, Gone, Left, Preparing, Refused, Releasing, Running, Stuck};
    match (state, event) {
        (Preparing, Event::Prepared) => (Booting(1), vec![Do::Boot(1)]),
        (Preparing, Event::WorkFailed) => (Releasing, vec![Do::Release]),
        (Booting(_), Event::Booted) => (Running, vec![Do::CreateDone]),
        (Booting(n), Event::WorkFailed) if n < BOOT_TRIES => (Booting(n + 1), vec![Do::Boot(n + 1)]),
        (Booting(_), Event::WorkFailed) => (Releasing, vec![Do::Release]),
        (Adopting, Event::Adopted) => (Running, vec![Do::CreateDone]),
        (Adopting, Event::TooNew) => (Refused, vec![]),
        (Preparing | Booting(_) | Adopting, Event::Destroy) => (Cancelling, vec![Do::Cancel]),
        (Preparing | Booting(_), Event::Leave) => (Cancelling, vec![Do::Cancel]),
        (
            Cancelling,
            Event::Prepared | Event::Booted | Event::WorkFailed | Event::Adopted | Event::TooNew | Event::Ended,
        ) => (Releasing, vec![Do::Release]),
        (Running | Refused, Event::Destroy) => (Releasing, vec![Do::Release]),
        (Running | Adopting, Event::Ended) => (Releasing, vec![Do::NoteEnd, Do::Release]),
        // What cannot be claimed for any other reason is taken for ended, too: nobody could ever use it again.
        (Adopting, Event::WorkFailed) => (Releasing, vec![Do::NoteEnd, Do::Release]),
        (Running | Adopting | Refused | Stuck, Event::Leave) => (Left, vec![Do::LetGo]),
        (Releasing, Event::Released) => (Gone, vec![Do::CreateFailed, Do::DestroyDone]),
        (Releasing, Event::ReleaseFailed) => (Stuck, vec![Do::CreateFailed, Do::DestroyFailed]),
        (Stuck, Event::Destroy) => (Releasing, vec![Do::Release]),
        (Gone, Event::Destroy) => (Gone, vec![Do::DestroyDone]),
        // A VMM that ends while it boots is seen by the boot itself; later destroys join the first; the rest cannot happen.
        (state, _) => (state, vec![]),
    }
}
