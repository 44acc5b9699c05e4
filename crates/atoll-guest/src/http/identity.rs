//! Who calls, and what a caller wants of its stream.
//!
//! How it works: the access token says whether one may, `Authorization: Basic` as whom to act inside the guest (it is a
//! choice of user, not a proof), and a header how much silence one tolerates on a stream.
//!
//! Deliberately absent: passwords.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use connectrpc::RequestContext;
use http::{HeaderMap, header};

use crate::{
    error::AgentError,
    settings::Settings,
    users::{self, User},
};

/// Checks the token of a request.
pub(crate) fn check(settings: &Settings, headers: &HeaderMap) -> Result<(), AgentError> {
    settings.check(headers.get("x-access-token").map(http::HeaderValue::as_bytes))
}

/// The user that a call names, or the default one.
pub(crate) fn user(settings: &Settings, headers: &HeaderMap) -> Result<User, AgentError> {
    match named(headers)? {
        Some(name) => users::find(&name),
        None => users::find(&settings.default_user()),
    }
}

fn named(headers: &HeaderMap) -> Result<Option<String>, AgentError> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Ok(None);
    };
    let malformed = || AgentError::UnknownUser("(a malformed Authorization header)".into());
    let Some(encoded) = value
        .to_str()
        .ok()
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
        .map(|(_, encoded)| encoded.trim())
    else {
        // A proxy's own scheme says nothing about a user of the guest.
        return Ok(None);
    };
    let decoded = STANDARD.decode(encoded).map_err(|_| malformed())?;
    let decoded = String::from_utf8(decoded).map_err(|_| malformed())?;
    let name = decoded.split(':').next().unwrap_or("");
    Ok((!name.is_empty()).then(|| name.to_owned()))
}

/// Silence that every reader tolerates unless it says otherwise.
const KEEPALIVE: Duration = Duration::from_secs(90);

/// After how much silence a stream says that it lives.
pub(crate) fn keepalive(ctx: &RequestContext) -> Duration {
    ctx.header("keepalive-ping-interval")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok())
        .map_or(KEEPALIVE, |seconds: u64| Duration::from_secs(seconds.clamp(1, 3600)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn basic_names_a_user() {
        assert_eq!(named(&HeaderMap::new()).unwrap(), None);
        assert_eq!(named(&header("Basic cm9vdDo=")).unwrap().as_deref(), Some("root"));
        assert_eq!(named(&header("basic cm9vdA==")).unwrap().as_deref(), Some("root"));
        assert_eq!(named(&header("Basic Og==")).unwrap(), None);
        assert_eq!(named(&header("Bearer abc")).unwrap(), None);
        assert!(named(&header("Basic ???")).is_err());
    }
}
