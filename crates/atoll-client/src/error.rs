//! Why a call came to nothing.
//!
//! How it works: one enum; what the server refused keeps its whole problem, so that callers decide by code and never by
//! text.
//!
//! Deliberately absent: what to do about it; the texts name it, the commands choose exit codes.

use std::path::PathBuf;

use atoll_api::{ErrorCode, Problem};

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No Atoll runs on the data directory.
    #[error("no Atoll runs on {}: start one with `atoll up`, or name one with --data or --url", data.display())]
    NotRunning {
        /// The data directory.
        data: PathBuf,
    },
    /// The data directory's socket is another user's.
    #[error("the Atoll on {} is another user's: become that user, or use --url with an API key", data.display())]
    ForeignSocket {
        /// The data directory.
        data: PathBuf,
    },
    /// The address is none.
    #[error("`{url}` is not an address such as http://127.0.0.1:7070")]
    BadUrl {
        /// As given.
        url: String,
    },
    /// The API key holds what no key holds.
    #[error("the API key holds characters that no key has")]
    BadKey,
    /// This side could not be set up.
    #[error("the client cannot be set up")]
    Setup(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Nobody answers there.
    #[error("{server} cannot be reached")]
    Unreachable {
        /// Address or socket.
        server: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("{server} did not answer in time")]
    NoAnswer {
        /// Address or socket.
        server: String,
    },
    /// The server refused.
    #[error("{}", .0.detail)]
    Refused(Box<Problem>),
    /// An answer that is not the API's: something else listens there.
    #[error("{server} answered {status}, but not as an Atoll does")]
    Foreign {
        /// Address or socket.
        server: String,
        /// The HTTP status.
        status: u16,
    },
    /// An answer larger than its cap.
    #[error("the answer is larger than {limit} bytes")]
    TooLarge {
        /// The cap.
        limit: usize,
    },
    /// The server closed the stream, and said why.
    #[error("{server} closed the stream: {reason}")]
    Closed {
        /// Address or socket.
        server: String,
        /// What it said.
        reason: String,
    },
    /// The connection was lost, or what was sent could not be read.
    #[error("the connection to {server} was lost")]
    Lost {
        /// Address or socket.
        server: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl ClientError {
    /// The server's code, if it refused.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(problem) => Some(problem.code),
            _ => None,
        }
    }

    /// Whether the server said no for good: one that stops, or takes its sandboxes over, may say yes a moment later.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Refused(problem) if !problem.retryable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_asked_again_and_what_was_no_refusal_is_not_final() {
        let refused = |code: &str, retryable: bool| {
            let error = serde_json::json!({"code": code, "message": "d"});
            let problem = serde_json::json!({"type": "/docs", "title": "t", "status": 503, "detail": "d", "code": code,
                "retryable": retryable, "error": error});
            ClientError::Refused(Box::new(serde_json::from_value(problem).unwrap()))
        };
        assert!(!refused("host_unavailable", true).is_final(), "a host that takes its sandboxes over");
        assert!(refused("host_unavailable", false).is_final(), "a host that lacks something");
        assert!(refused("not_found", false).is_final());
        assert!(!ClientError::NoAnswer { server: "s".into() }.is_final());
    }
}
