//! Bodies of JSON: read whole, within a bound and a deadline.
//!
//! How it works: read up to a cap and a deadline, then parsed; an empty body is an object without fields.
//!
//! Deliberately absent: telling the content of a bad body again.

use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::error::AgentError;

/// How large such a body may be.
pub(crate) const BYTES: usize = 1 << 20;
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reads a body. One that is empty is an object without fields.
pub(crate) async fn read<T: DeserializeOwned>(body: Incoming, path: &str) -> Result<T, AgentError> {
    let body = timeout(PATIENCE, Limited::new(body, BYTES).collect())
        .await
        .map_err(|_| AgentError::Invalid(format!("the body of {path} did not come")))?
        .map_err(|_| AgentError::Invalid(format!("{path} takes at most {BYTES} bytes")))?
        .to_bytes();
    parse(&body, path)
}

/// As [`read`], of bytes that are there.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8], path: &str) -> Result<T, AgentError> {
    let body = if body.is_empty() { b"{}" } else { body };
    // serde's text could quote a secret.
    serde_json::from_slice(body)
        .map_err(|_| AgentError::Invalid(format!("the body of {path} is not the JSON it should be")))
}
