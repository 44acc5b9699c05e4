//! The access token of one sandbox's agent.
//!
//! How it works: a string that `Debug` does not show.
//!
//! Deliberately absent: checking it; that is the agent's.

use std::fmt;

/// A secret that opens the agent. Its `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken(String);

impl AccessToken {
    /// Wraps a token.
    pub fn new(token: impl Into<String>) -> Self {
        Self(token.into())
    }

    /// The token itself, for a header or for safekeeping; never for a log.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("AccessToken(…)")
    }
}
