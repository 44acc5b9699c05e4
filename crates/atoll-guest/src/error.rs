//! What can go wrong in the agent, and what it is called on the wire.
//!
//! How it works: one enum; its Connect code, its HTTP status and, where a host must tell causes apart, its reason come
//! from the variant.
//!
//! Deliberately absent: errors of the boot (`boot/mod.rs`).

use std::io;

use connectrpc::{ConnectError, ErrorCode};
use http::{HeaderMap, HeaderValue, StatusCode};

/// The header that carries [`AgentError::reason`].
pub(crate) const REASON: &str = "atoll-reason";

/// An error of the agent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    #[error("{what}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("program `{0}` not found")]
    ProgramNotFound(String),
    #[error("program `{0}` cannot be executed")]
    NotExecutable(String),
    #[error("working directory `{0}` does not exist or cannot be entered")]
    BadCwd(String),
    #[error("user `{0}` does not exist in this sandbox")]
    UnknownUser(String),
    #[error("the access token is missing or wrong (header X-Access-Token)")]
    BadToken,
    #[error("signature is already expired")]
    SignatureExpired,
    #[error("process {0} not found")]
    NoProcess(String),
    #[error("a process with tag `{0}` is there already; end it or take another tag")]
    TagTaken(String),
    #[error("`{0}` not found")]
    NoFile(String),
    #[error("`{0}` exists already")]
    Exists(String),
    #[error("`{0}` is a directory")]
    IsDirectory(String),
    #[error("`{0}` is not a directory")]
    NotDirectory(String),
    #[error("{0}")]
    Denied(String),
    #[error("not enough space on the sandbox's disk")]
    DiskFull,
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    Limit(String),
    #[error("{0}")]
    Busy(String),
    #[error("user code stands still for a snapshot; try again when it goes on")]
    Frozen,
    #[error("nothing is served at this path")]
    NoRoute,
    #[error("this path does not take this method")]
    BadMethod,
}

impl AgentError {
    /// An I/O error with what was being done. A full disk is told apart.
    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Self::DiskFull,
            _ => Self::Io { what: what.into(), source },
        }
    }

    /// An I/O error about one path.
    pub(crate) fn file(path: &std::path::Path, source: io::Error) -> Self {
        let shown = path.display().to_string();
        match source.raw_os_error() {
            Some(libc::ENOENT) => Self::NoFile(shown),
            Some(libc::EEXIST) => Self::Exists(shown),
            Some(libc::EISDIR) => Self::IsDirectory(shown),
            Some(libc::ENOTDIR) => Self::NotDirectory(shown),
            Some(libc::EACCES | libc::EPERM | libc::EROFS | libc::EBUSY | libc::ETXTBSY) => {
                Self::Denied(format!("`{shown}`: {source}"))
            }
            Some(libc::ENAMETOOLONG | libc::ELOOP | libc::EINVAL | libc::EXDEV) => {
                Self::Invalid(format!("`{shown}`: {source}"))
            }
            _ => Self::io(format!("`{shown}`: {source}"), source),
        }
    }

    /// The reason for a host that maps errors by type.
    pub(crate) fn reason(&self) -> Option<&'static str> {
        Some(match self {
            Self::ProgramNotFound(_) => "program_not_found",
            Self::NotExecutable(_) => "not_executable",
            Self::BadCwd(_) => "bad_cwd",
            Self::UnknownUser(_) => "unknown_user",
            Self::BadToken | Self::SignatureExpired => "bad_token",
            Self::TagTaken(_) => "tag_taken",
            Self::DiskFull => "disk_full",
            Self::IsDirectory(_) => "is_directory",
            Self::Frozen => "frozen",
            _ => return None,
        })
    }

    /// The Connect code.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::ProgramNotFound(_) | Self::NoProcess(_) | Self::NoFile(_) => ErrorCode::NotFound,
            Self::NotExecutable(_) | Self::Denied(_) => ErrorCode::PermissionDenied,
            Self::UnknownUser(_) | Self::BadToken | Self::SignatureExpired => ErrorCode::Unauthenticated,
            Self::Exists(_) | Self::TagTaken(_) => ErrorCode::AlreadyExists,
            Self::DiskFull | Self::Limit(_) => ErrorCode::ResourceExhausted,
            Self::Conflict(_) => ErrorCode::FailedPrecondition,
            Self::Busy(_) | Self::Frozen => ErrorCode::Unavailable,
            Self::BadCwd(_) | Self::Invalid(_) | Self::IsDirectory(_) | Self::NotDirectory(_) => {
                ErrorCode::InvalidArgument
            }
            Self::NoRoute | Self::BadMethod => ErrorCode::Unimplemented,
            Self::Io { .. } => ErrorCode::Internal,
        }
    }

    /// The status of a plain HTTP route.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::BadMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::Limit(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Conflict(_) => StatusCode::CONFLICT,
            _ => self.code().http_status(),
        }
    }
}

impl From<AgentError> for ConnectError {
    fn from(error: AgentError) -> Self {
        let mut headers = HeaderMap::new();
        if let Some(reason) = error.reason() {
            headers.insert(REASON, HeaderValue::from_static(reason));
        }
        Self::new(error.code(), error.to_string()).with_headers(headers.clone()).with_trailers(headers)
    }
}
