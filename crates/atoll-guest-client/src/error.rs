//! What can go wrong with a guest, typed so that callers map without reading text.
//!
//! How it works: one enum, by whose doing it is: the way there, the agent's refusal, a broken protocol, a cap, a
//! deadline.
//!
//! Deliberately absent: texts of a guest without a bound.

use std::{fmt, io, time::Duration};

/// The part of a call that took too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Connecting.
    Dial,
    /// Waiting for the head of the answer.
    Head,
    /// Reading an answer.
    Body,
    /// Waiting for the next piece of a stream.
    Idle,
}

impl fmt::Display for Phase {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Dial => "connecting",
            Self::Head => "waiting for its answer",
            Self::Body => "reading its answer",
            Self::Idle => "waiting for more of its stream",
        })
    }
}

/// A Connect error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    Canceled,
    Unknown,
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Aborted,
    OutOfRange,
    Unimplemented,
    Internal,
    Unavailable,
    DataLoss,
    Unauthenticated,
}

impl Code {
    /// Reads a code's name on the wire. What is not one is `Unknown`.
    pub(crate) fn parse(text: &str) -> Self {
        match text {
            "canceled" => Self::Canceled,
            "invalid_argument" => Self::InvalidArgument,
            "deadline_exceeded" => Self::DeadlineExceeded,
            "not_found" => Self::NotFound,
            "already_exists" => Self::AlreadyExists,
            "permission_denied" => Self::PermissionDenied,
            "resource_exhausted" => Self::ResourceExhausted,
            "failed_precondition" => Self::FailedPrecondition,
            "aborted" => Self::Aborted,
            "out_of_range" => Self::OutOfRange,
            "unimplemented" => Self::Unimplemented,
            "internal" => Self::Internal,
            "unavailable" => Self::Unavailable,
            "data_loss" => Self::DataLoss,
            "unauthenticated" => Self::Unauthenticated,
            _ => Self::Unknown,
        }
    }

    /// The code that an ordinary HTTP status stands for.
    pub(crate) fn of_status(status: http::StatusCode) -> Self {
        match status.as_u16() {
            400 | 413 | 415 | 416 => Self::InvalidArgument,
            401 => Self::Unauthenticated,
            403 => Self::PermissionDenied,
            404 => Self::NotFound,
            409 => Self::AlreadyExists,
            429 | 507 => Self::ResourceExhausted,
            502..=504 => Self::Unavailable,
            501 => Self::Unimplemented,
            500 => Self::Internal,
            _ => Self::Unknown,
        }
    }
}

/// Why the agent said no, where the code alone leaves it open (`atoll-reason`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The program to run does not exist.
    ProgramNotFound,
    /// The program to run exists and cannot be executed.
    NotExecutable,
    /// The working directory does not exist or is no directory.
    BadCwd,
    /// No such user in the guest.
    UnknownUser,
    /// The access token is missing or wrong.
    BadToken,
    /// A running process has this tag.
    TagTaken,
    /// The guest's disk is full.
    DiskFull,
    /// The path names a directory where a file is needed.
    IsDirectory,
    /// User code stands still for a snapshot.
    Frozen,
}

impl Reason {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "program_not_found" => Self::ProgramNotFound,
            "not_executable" => Self::NotExecutable,
            "bad_cwd" => Self::BadCwd,
            "unknown_user" => Self::UnknownUser,
            "bad_token" => Self::BadToken,
            "tag_taken" => Self::TagTaken,
            "disk_full" => Self::DiskFull,
            "is_directory" => Self::IsDirectory,
            "frozen" => Self::Frozen,
            _ => return None,
        })
    }
}

/// An error of a call to the agent.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// No connection to the agent came about.
    #[error("cannot reach the guest agent")]
    Dial(#[source] io::Error),
    /// The guest took too long.
    #[error("the guest agent took longer than {} s {phase}", after.as_secs_f32())]
    Timeout {
        /// What was waited for.
        phase: Phase,
        /// For how long.
        after: Duration,
    },
    /// The guest sent more than this side takes.
    #[error("the guest agent's {what} is larger than {limit} bytes")]
    TooLarge {
        /// What was too large.
        what: &'static str,
        /// The cap, in bytes.
        limit: usize,
    },
    /// The guest broke the protocol, or its connection ended in the middle.
    #[error("the guest agent broke the protocol: {0}")]
    Protocol(String),
    /// The agent understood and said no.
    #[error("{message}")]
    Rejected {
        /// The Connect code, or what the HTTP status stands for.
        code: Code,
        /// The reason, when the agent gave one.
        reason: Option<Reason>,
        /// The agent's own words: text out of a guest.
        message: String,
    },
    /// The caller's own body failed while it was being sent.
    #[error("reading what was to be written into the guest failed")]
    Source(#[source] io::Error),
}

impl GuestError {
    pub(crate) fn protocol(what: impl Into<String>) -> Self {
        Self::Protocol(what.into())
    }

    /// The Connect code of a refusal.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Rejected { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// The reason of a refusal.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Rejected { reason, .. } => *reason,
            _ => None,
        }
    }
}
