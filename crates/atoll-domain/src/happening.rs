//! What happens to a sandbox, as its owner reads it.
//!
//! How it works: one enum, so that a new one is a new variant; each with a time, the life it is about, and a reason where there is
//! something to say.
//!
//! Deliberately absent: who did it (see [`crate::audit`]).

use crate::Incarnation;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HappeningKind {
    /// It was asked for.
    Created,
    /// It runs for the first time.
    Started,
    /// It could not be made.
    Failed,
    /// Its limits were changed.
    LifetimeChanged,
    /// One of its limits was reached; the reason says which.
    Expired,
    /// It was paused.
    Paused,
    /// It could not be paused and runs on.
    PauseFailed,
    /// It runs again.
    Resumed,
    /// It could not be resumed and stays paused.
    ResumeFailed,
    /// A template was made of it.
    Snapshotted,
    /// It stands still because its host's disk is full.
    DiskFull,
    /// It goes on.
    GoesOn,
    /// It ended by itself.
    Ended,
    /// It was destroyed.
    Destroyed,
}

impl HappeningKind {
    /// Every kind.
    pub const ALL: [Self; 14] = [
        Self::Created,
        Self::Started,
        Self::Failed,
        Self::LifetimeChanged,
        Self::Expired,
        Self::Paused,
        Self::PauseFailed,
        Self::Resumed,
        Self::ResumeFailed,
        Self::Snapshotted,
        Self::DiskFull,
        Self::GoesOn,
        Self::Ended,
        Self::Destroyed,
    ];

    /// The wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Started => "started",
            Self::Failed => "failed",
            Self::LifetimeChanged => "lifetime_changed",
            Self::Expired => "expired",
            Self::Paused => "paused",
            Self::PauseFailed => "pause_failed",
            Self::Resumed => "resumed",
            Self::ResumeFailed => "resume_failed",
            Self::Snapshotted => "snapshotted",
            Self::DiskFull => "disk_full",
            Self::GoesOn => "goes_on",
            Self::Ended => "ended",
            Self::Destroyed => "destroyed",
        }
    }

    /// Reads a wire name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// So many characters of two reasons are compared; a history keeps no more than some hundred.
const COMPARED: usize = 200;

/// Something that happened to a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    /// When, in microseconds since 1970.
    pub at: i64,
    /// In which life of it.
    pub incarnation: Incarnation,
    /// What.
    pub kind: HappeningKind,
    /// Why, where there is something to say.
    pub reason: Option<String>,
}

impl Happening {
    /// Whether it says nothing that an earlier one did not: the same in the same life, for the same cause. Numbers make no other cause:
    /// how much space is left is another with every try.
    pub fn repeats(&self, earlier: &Self) -> bool {
        let cause = |of: &Self| -> String {
            let reason = of.reason.as_deref().unwrap_or_default();
            reason.chars().filter(|c| !c.is_ascii_digit()).take(COMPARED).collect()
        };
        (self.kind, self.incarnation) == (earlier.kind, earlier.incarnation) && cause(self) == cause(earlier)
    }
}
