//! The body of every error: RFC 9457, with the older `error: {code, message}` inside.
//!
//! How it works: `code` is a closed list, mapped from types and never from texts; `detail` is for people and names the way out.
//! Answers of 500 and above tell nothing of the inside; `request_id` finds the server's own log line.
//!
//! Deliberately absent: an answer in another language, and texts that a program would have to read.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What went wrong, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// 400: the request cannot be used; `errors` names the fields.
    InvalidRequest,
    /// 401: no API key, or none that is known.
    Unauthorized,
    /// 403: known, and not allowed.
    Forbidden,
    /// 404: not there, or not the asker's.
    NotFound,
    /// 405: the path is there, not for this method.
    MethodNotAllowed,
    /// 408: the request's body came too slowly.
    RequestTimeout,
    /// 409: the sandbox is in a state in which this cannot be done; `state` names it.
    InvalidState,
    /// 409: the memory of a paused sandbox cannot be used any more; its disk can, by a resume in mode `disk`.
    MemoryUnusable,
    /// 409: the guest's agent did not answer in time; the sandbox is as it was.
    AgentBusy,
    /// 409: what is kept of the sandbox was not quiesced: it may be resumed and not be copied.
    Unquiesced,
    /// 409: what is kept of the sandbox does not hold what it must.
    Damaged,
    /// 409: the secrets of a paused sandbox cannot be opened with the key that is here.
    SecretsUnavailable,
    /// 409: something of that name is there already.
    Conflict,
    /// 409: the first request with this idempotency key is still under way.
    InProgress,
    /// 413: the body, or the file, is larger than allowed.
    TooLarge,
    /// 415: a body of another content type is needed.
    UnsupportedMediaType,
    /// 422: this idempotency key was used for another request.
    IdempotencyMismatch,
    /// 429: too many of these at once.
    TooMany,
    /// 500: a fault of Atoll.
    InternalError,
    /// 502: the host or the guest's agent failed.
    AgentError,
    /// 503: the host cannot be reached, lacks something, or Atoll is stopping.
    HostUnavailable,
    /// 503: no host has room for it.
    NoCapacity,
    /// 504: it took longer than it may.
    Timeout,
    /// 507: the sandbox's disk is full.
    DiskFull,
    /// A code that this version does not know.
    #[serde(other)]
    Unknown,
}

impl ErrorCode {
    /// Every code with its status and what it means.
    pub const ALL: [(Self, u16, &'static str); 24] = [
        (Self::InvalidRequest, 400, "the request cannot be used; `errors` names the fields"),
        (Self::Unauthorized, 401, "no API key, or none that is known"),
        (Self::Forbidden, 403, "known, and not allowed"),
        (Self::NotFound, 404, "not there, or not yours"),
        (Self::MethodNotAllowed, 405, "the path is there, not for this method"),
        (Self::RequestTimeout, 408, "the request's body came too slowly"),
        (Self::InvalidState, 409, "the sandbox is in a state in which this cannot be done; `state` names it"),
        (Self::MemoryUnusable, 409, "the sandbox's memory cannot be used any more; its disk can, by mode `disk`"),
        (Self::AgentBusy, 409, "the guest's agent did not answer in time; the sandbox is as it was"),
        (Self::Unquiesced, 409, "what is kept of the sandbox was not quiesced: it may be resumed and not be copied"),
        (Self::Damaged, 409, "what is kept of the sandbox does not hold what it must"),
        (Self::SecretsUnavailable, 409, "the sandbox's secrets cannot be opened with the key that is here"),
        (Self::Conflict, 409, "something of that name is there already"),
        (Self::InProgress, 409, "the first request with this idempotency key is still under way"),
        (Self::TooLarge, 413, "the body, or the file, is larger than allowed"),
        (Self::UnsupportedMediaType, 415, "a body of another content type is needed"),
        (Self::IdempotencyMismatch, 422, "this idempotency key was used for another request"),
        (Self::TooMany, 429, "too many of these at once"),
        (Self::InternalError, 500, "a fault of Atoll; its log has the reason"),
        (Self::AgentError, 502, "the host or the guest's agent failed"),
        (Self::HostUnavailable, 503, "the host cannot be reached, lacks something, or Atoll is stopping"),
        (Self::NoCapacity, 503, "no host has room for it"),
        (Self::Timeout, 504, "it took longer than it may"),
        (Self::DiskFull, 507, "the sandbox's disk is full"),
    ];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::RequestTimeout => "request_timeout",
            Self::InvalidState => "invalid_state",
            Self::MemoryUnusable => "memory_unusable",
            Self::AgentBusy => "agent_busy",
            Self::Unquiesced => "unquiesced",
            Self::Damaged => "damaged",
            Self::SecretsUnavailable => "secrets_unavailable",
            Self::Conflict => "conflict",
            Self::InProgress => "in_progress",
            Self::TooLarge => "too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::IdempotencyMismatch => "idempotency_mismatch",
            Self::TooMany => "too_many",
            Self::InternalError => "internal_error",
            Self::AgentError => "agent_error",
            Self::HostUnavailable => "host_unavailable",
            Self::NoCapacity => "no_capacity",
            Self::Timeout => "timeout",
            Self::DiskFull => "disk_full",
            Self::Unknown => "unknown",
        }
    }
}

/// One field that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// JSON pointer of the field, or the name of a query parameter after `?`.
    #[schema(example = "/vcpus")]
    pub pointer: String,
    /// `out_of_range`, `required`, `malformed`, `unknown`, `not_found`, `is_directory`.
    #[schema(example = "out_of_range")]
    pub code: String,
    /// What is wrong, the limit, and the way out.
    pub detail: String,
    /// Smallest allowed value, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<i64>,
    /// Largest allowed value, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<i64>,
}

/// The older form of an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// The same as the problem's.
    pub code: ErrorCode,
    /// The same as `detail`.
    pub message: String,
}

/// The body of an error (`application/problem+json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// A URI reference that names the kind: `/docs#` and the code.
    #[serde(rename = "type")]
    #[schema(example = "/docs#invalid_request")]
    pub kind: String,
    /// The kind, for people.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong and what to do.
    pub detail: String,
    /// The path that was asked for.
    #[serde(default)]
    pub instance: String,
    /// The kind, for programs.
    pub code: ErrorCode,
    /// Name of the request, as in `X-Request-Id`.
    #[serde(default)]
    pub request_id: String,
    /// Whether the same request may succeed later as it is.
    #[serde(default)]
    pub retryable: bool,
    /// State of the sandbox, where that is what is wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The fields that cannot be used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// The older form.
    pub error: ErrorBody,
}
