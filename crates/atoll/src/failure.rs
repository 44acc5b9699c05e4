//! How a command ends: exit codes and error texts.
//!
//! How it works: 0 ok, 1 error, 2 usage, 3 not found, 4 refused, 5 wrong state, 6 no capacity or unreachable, 124 timeout, 130
//! interrupted. `run` and `exec` pass on the program's own code, so their own failures are 125. What the server refused is
//! told by its code, never by its text; with `-o json` its problem document goes to standard error as it came.
//!
//! Deliberately absent: backtraces.

use atoll_api::{ErrorCode, StreamError};
use atoll_client::ClientError;

use crate::args::Output;
use crate::output::{self, ReaderGone};

/// The program ran and ended with this code; nothing is to be said about it.
#[derive(Debug, thiserror::Error)]
#[error("the program ended with {0}")]
pub(crate) struct ProgramEnded(pub(crate) i32);

/// A signal asked for the end.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub(crate) struct Interrupted;

/// Something with an exit code of its own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// Wrong use: 2.
    #[error("{0}")]
    Usage(String),
    /// Not there: 3.
    #[error("{0}")]
    NotFound(String),
    /// Not allowed: 4.
    #[error("{0}")]
    NotAllowed(String),
}

/// A stream that the server ended, with its reason.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
struct StreamRefused {
    text: String,
    code: Option<ErrorCode>,
}

/// The reason for which a stream ended.
pub(crate) fn refused(error: StreamError) -> anyhow::Error {
    StreamRefused { text: error.data, code: error.code }.into()
}

/// Whether a stream ended for a reason that may pass: the connection was lost, or its host takes its sandboxes over at this moment.
pub(crate) fn may_pass(error: &anyhow::Error) -> bool {
    if let Some(StreamRefused { code, .. }) = error.downcast_ref() {
        return *code == Some(ErrorCode::HostUnavailable);
    }
    matches!(error.downcast_ref(), Some(ClientError::Lost { .. } | ClientError::NoAnswer { .. }))
}

/// Whose exit code a command passes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codes {
    /// Atoll's own.
    Own,
    /// The program's; a failure of Atoll is 125.
    Program,
}

const FAILED: u8 = 125;
const TIMEOUT: u8 = 124;
const INTERRUPTED: u8 = 130;
const USAGE: u8 = 2;

/// Tells why, and gives the exit code.
pub(crate) fn conclude(error: &anyhow::Error, codes: Codes, format: Output) -> u8 {
    if let Some(ProgramEnded(code)) = error.downcast_ref() {
        return u8::try_from(*code).unwrap_or(1);
    }
    if error.is::<ReaderGone>() {
        return 0;
    }
    if error.is::<Interrupted>() {
        return INTERRUPTED;
    }
    tell(error, format);
    let code = code(error);
    match codes {
        Codes::Program if !matches!(code, TIMEOUT | INTERRUPTED | USAGE) => FAILED,
        _ => code,
    }
}

fn tell(error: &anyhow::Error, format: Output) {
    if let Some(ClientError::Refused(problem)) = error.downcast_ref() {
        if format == Output::Json {
            if let Ok(text) = serde_json::to_string_pretty(problem) {
                output::hint(&text);
            }
            return;
        }
        output::hint(&format!("error: {}", problem.detail));
        for field in &problem.errors {
            if !problem.detail.contains(&field.detail) {
                output::hint(&format!("  {}: {}", field.pointer.trim_start_matches('/'), field.detail));
            }
        }
        if !problem.request_id.is_empty() && problem.status >= 500 {
            output::hint(&format!("  request {}", problem.request_id));
        }
        return;
    }
    output::hint(&format!("error: {error:#}"));
}

fn code(error: &anyhow::Error) -> u8 {
    if let Some(refusal) = error.downcast_ref::<Refusal>() {
        return match refusal {
            Refusal::Usage(_) => USAGE,
            Refusal::NotFound(_) => 3,
            Refusal::NotAllowed(_) => 4,
        };
    }
    if let Some(StreamRefused { code: Some(code), .. }) = error.downcast_ref() {
        return of_problem(*code);
    }
    match error.downcast_ref::<ClientError>() {
        Some(ClientError::Refused(problem)) => of_problem(problem.code),
        Some(ClientError::NotRunning { .. } | ClientError::Unreachable { .. }) => 6,
        Some(ClientError::ForeignSocket { .. }) => 4,
        Some(ClientError::BadUrl { .. } | ClientError::BadKey) => USAGE,
        Some(ClientError::NoAnswer { .. }) => TIMEOUT,
        _ => 1,
    }
}

fn of_problem(code: ErrorCode) -> u8 {
    match code {
        ErrorCode::NotFound => 3,
        ErrorCode::Unauthorized | ErrorCode::Forbidden => 4,
        ErrorCode::InvalidState
        | ErrorCode::MemoryUnusable
        | ErrorCode::AgentBusy
        | ErrorCode::Unquiesced
        | ErrorCode::Damaged
        | ErrorCode::SecretsUnavailable
        | ErrorCode::Conflict
        | ErrorCode::InProgress => 5,
        ErrorCode::NoCapacity | ErrorCode::HostUnavailable | ErrorCode::TooMany => 6,
        ErrorCode::Timeout => TIMEOUT,
        _ => 1,
    }
}
