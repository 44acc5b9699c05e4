//! Every error of the API, and the one place where errors become statuses.
//!
//! How it works: handlers fail with a [`WebError`]; [`WebError::problem`] maps it by type to status, code and text. What is
//! the inside of Atoll or of a host stays out of the text of an answer; it is in the log, under the request's id.
//!
//! Deliberately absent: reading texts to decide anything.

use atoll_api::{ErrorBody, ErrorCode, FieldError, Problem};
use atoll_control::ControlError;
use atoll_domain::host::HostError;
use atoll_domain::{Invalid, SandboxStatus};
use atoll_guest_client::{Code, GuestError, Reason};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use std::sync::Arc;

/// Why a request is not answered as it was meant.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WebError {
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A field of the body or the query.
    #[error("{}{}{}", .0.pointer, if .0.pointer.is_empty() { "" } else { ": " }, .0.detail)]
    Field(FieldError),
    #[error("{0}")]
    Malformed(String),
    #[error("{what} is larger than {limit} bytes")]
    TooLarge { what: &'static str, limit: u64 },
    #[error("{0}")]
    UnsupportedMediaType(&'static str),
    #[error("the request's body stopped coming")]
    SlowBody,
    #[error("there is no such path in this API; /docs lists them")]
    NoRoute,
    #[error("this path does not take this method; see the Allow header")]
    MethodNotAllowed,
    #[error("this took longer than {0} s")]
    Deadline(u64),
    /// The debug port is another sandbox's, or another program's.
    #[error("{0}")]
    DebugPort(String),
    #[error("a handler panicked")]
    Panic,
}

impl From<Invalid> for WebError {
    fn from(invalid: Invalid) -> Self {
        Self::Control(invalid.into())
    }
}

/// What an error is on the wire.
struct Shape {
    status: StatusCode,
    code: ErrorCode,
    title: &'static str,
    /// Replaces the error's own text, where that is not for the asker.
    detail: Option<String>,
}

const fn shape(status: StatusCode, code: ErrorCode, title: &'static str) -> Shape {
    Shape { status, code, title, detail: None }
}

fn hidden(shape: Shape, detail: &str) -> Shape {
    Shape { detail: Some(detail.to_owned()), ..shape }
}

const INTERNAL: Shape = shape(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::InternalError, "Internal error");
const INVALID: Shape = shape(StatusCode::BAD_REQUEST, ErrorCode::InvalidRequest, "The request cannot be used");
const NOT_FOUND: Shape = shape(StatusCode::NOT_FOUND, ErrorCode::NotFound, "Not found");
const STATE: Shape = shape(StatusCode::CONFLICT, ErrorCode::InvalidState, "The sandbox is in another state");
const TOO_LARGE: Shape = shape(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::TooLarge, "Too large");
const TIMEOUT: Shape = shape(StatusCode::GATEWAY_TIMEOUT, ErrorCode::Timeout, "It took too long");
const AGENT: Shape = shape(StatusCode::BAD_GATEWAY, ErrorCode::AgentError, "The host or the guest's agent failed");
const HOST: Shape = shape(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::HostUnavailable, "The host cannot do this now");
const IN_LOG: &str = "Atoll's log has the reason under this request's id";

fn of_control(error: &ControlError) -> Shape {
    match error {
        ControlError::Invalid(_) => INVALID,
        ControlError::Unauthorized => shape(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, "Not signed in"),
        ControlError::Forbidden { .. } => shape(StatusCode::FORBIDDEN, ErrorCode::Forbidden, "Not allowed"),
        ControlError::NotFound { .. } => NOT_FOUND,
        ControlError::NotRunning { .. } | ControlError::DeadlinePassed { .. } => STATE,
        ControlError::SecretsUnavailable { .. } => {
            shape(StatusCode::CONFLICT, ErrorCode::SecretsUnavailable, "The sandbox's secrets cannot be opened")
        }
        ControlError::NoMemoryToCopy { .. } => {
            shape(StatusCode::CONFLICT, ErrorCode::MemoryUnusable, "There is no memory to make a template of")
        }
        ControlError::Conflict { .. } => shape(StatusCode::CONFLICT, ErrorCode::Conflict, "It is there already"),
        ControlError::CommandTimeout { .. } | ControlError::ProcessTimeout => TIMEOUT,
        ControlError::TooMany { .. } => shape(StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooMany, "Too many at once"),
        ControlError::TooLarge { .. } => TOO_LARGE,
        ControlError::InProgress => shape(StatusCode::CONFLICT, ErrorCode::InProgress, "Still under way"),
        ControlError::OtherRequest => {
            shape(StatusCode::UNPROCESSABLE_ENTITY, ErrorCode::IdempotencyMismatch, "Another request had this key")
        }
        ControlError::GuestDiskFull => {
            shape(StatusCode::INSUFFICIENT_STORAGE, ErrorCode::DiskFull, "The sandbox's disk is full")
        }
        ControlError::GuestDenied(_) => {
            shape(StatusCode::FORBIDDEN, ErrorCode::Forbidden, "The sandbox's own permissions forbid it")
        }
        ControlError::DatabaseFull => {
            shape(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::NoCapacity, "Atoll has no room to write this down")
        }
        ControlError::Host(error) => of_host(error),
        ControlError::Guest(error) => of_guest(error),
        ControlError::Store(_) | ControlError::Internal(_) => hidden(INTERNAL, IN_LOG),
        ControlError::Stopping | ControlError::CutOff => HOST,
    }
}

fn of_host(error: &HostError) -> Shape {
    match error {
        HostError::NotFound | HostError::UnknownTemplate { .. } => NOT_FOUND,
        HostError::Invalid(_) => INVALID,
        HostError::WrongState { .. } => STATE,
        HostError::MemoryUnusable(_) => {
            let title = "The sandbox's memory cannot be used";
            let way_out = format!("{error}; resume it in mode `disk` to boot from its disk and give the memory up");
            hidden(shape(StatusCode::CONFLICT, ErrorCode::MemoryUnusable, title), &way_out)
        }
        HostError::AgentBusy => shape(StatusCode::CONFLICT, ErrorCode::AgentBusy, "The guest's agent is busy"),
        HostError::Unquiesced => shape(StatusCode::CONFLICT, ErrorCode::Unquiesced, "It cannot be copied"),
        HostError::Damaged(_) => shape(StatusCode::CONFLICT, ErrorCode::Damaged, "What is kept is damaged"),
        HostError::NoCapacity { .. } => {
            shape(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::NoCapacity, "No host has room for it")
        }
        HostError::MissingTool { .. } => HOST,
        HostError::Unavailable(_) => hidden(HOST, "the host cannot be reached; try again"),
        HostError::Stopping => hidden(HOST, "Atoll is stopping; try again when it is back"),
        HostError::Timeout { .. } => TIMEOUT,
        HostError::Failed(_) => hidden(AGENT, &format!("the host failed; {IN_LOG}")),
    }
}

fn of_guest(error: &GuestError) -> Shape {
    match error {
        GuestError::Timeout { .. } => hidden(TIMEOUT, "the sandbox's agent did not answer in time"),
        GuestError::Source(_) => hidden(INVALID, "the body broke off before its end"),
        GuestError::Rejected { reason: Some(Reason::Frozen), .. } => {
            hidden(HOST, "the sandbox stands still for a snapshot; try again")
        }
        GuestError::Rejected { code: Code::NotFound, .. } => {
            hidden(NOT_FOUND, "the sandbox has no such process or file")
        }
        GuestError::Rejected { code: Code::InvalidArgument, .. } => {
            hidden(INVALID, "the sandbox's agent cannot use this")
        }
        GuestError::Rejected { code: Code::FailedPrecondition, .. } => {
            let shape = shape(StatusCode::CONFLICT, ErrorCode::Conflict, "Not possible now");
            hidden(shape, "the process does not take this: it has no such stream or terminal")
        }
        _ => hidden(AGENT, &format!("the sandbox's agent failed; {IN_LOG}")),
    }
}

impl WebError {
    fn shape(&self) -> Shape {
        match self {
            Self::Control(error) => of_control(error),
            Self::Field(_) | Self::Malformed(_) => INVALID,
            Self::TooLarge { .. } => TOO_LARGE,
            Self::UnsupportedMediaType(_) => shape(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                ErrorCode::UnsupportedMediaType,
                "Another content type is needed",
            ),
            Self::SlowBody => shape(StatusCode::REQUEST_TIMEOUT, ErrorCode::RequestTimeout, "The body came too slowly"),
            Self::NoRoute => NOT_FOUND,
            Self::MethodNotAllowed => {
                shape(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::MethodNotAllowed, "Another method is needed")
            }
            Self::Deadline(_) => TIMEOUT,
            Self::DebugPort(_) => shape(StatusCode::CONFLICT, ErrorCode::Conflict, "The debug port is taken"),
            Self::Panic => hidden(INTERNAL, IN_LOG),
        }
    }

    /// The status that it is answered with.
    pub(crate) fn status(&self) -> StatusCode {
        self.shape().status
    }

    /// The body that it is answered with.
    pub(crate) fn problem(&self, instance: &str, request_id: &str) -> Problem {
        let Shape { status, code, title, detail } = self.shape();
        let detail = detail.unwrap_or_else(|| self.to_string());
        Problem {
            kind: format!("/docs#{}", code.as_str()),
            title: title.to_owned(),
            status: status.as_u16(),
            instance: instance.to_owned(),
            code,
            request_id: request_id.to_owned(),
            retryable: self.retryable(status),
            state: self.state(),
            errors: self.field().into_iter().collect(),
            error: ErrorBody { code, message: detail.clone() },
            detail,
        }
    }

    /// Whether an earlier request has to end first.
    pub(crate) fn is_under_way(&self) -> bool {
        matches!(self, Self::Control(ControlError::InProgress))
    }

    fn retryable(&self, status: StatusCode) -> bool {
        let lacking = matches!(self, Self::Control(ControlError::Host(HostError::MissingTool { .. })));
        let busy = matches!(self, Self::Control(ControlError::Host(HostError::AgentBusy)));
        let begun = matches!(self, Self::Control(ControlError::CutOff));
        self.is_under_way()
            || busy
            || matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::REQUEST_TIMEOUT) && !lacking && !begun
    }

    fn state(&self) -> Option<String> {
        match self {
            Self::Control(ControlError::NotRunning { status, .. }) => Some(status.to_string()),
            Self::Control(ControlError::DeadlinePassed { .. }) => Some(SandboxStatus::Paused.to_string()),
            Self::Control(ControlError::Host(HostError::WrongState { state })) => Some(state.clone()),
            _ => None,
        }
    }

    fn field(&self) -> Option<FieldError> {
        match self {
            Self::Field(field) => Some(field.clone()),
            Self::Control(ControlError::Invalid(invalid) | ControlError::Host(HostError::Invalid(invalid))) => {
                Some(FieldError {
                    pointer: format!("/{}", invalid.field),
                    code: invalid.code.clone(),
                    detail: invalid.detail.clone(),
                    min: invalid.min,
                    max: invalid.max,
                })
            }
            _ => None,
        }
    }
}

/// An error on its way to [`crate::answer`], which writes it.
#[derive(Clone)]
pub(crate) struct Pending(pub(crate) Arc<WebError>);

impl IntoResponse for WebError {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(Pending(Arc::new(self)));
        response
    }
}
