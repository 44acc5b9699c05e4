//! Who asks.
//!
//! How it works: an API key in `X-API-Key`, or after `Authorization: Bearer`; on the data directory's socket without a key the
//! uid at its other end, which the kernel tells. A key that is no key is refused even where none is needed.
//!
//! Deliberately absent: what a caller may do (atoll-control decides).

use atoll_api::API_KEY;
use atoll_control::ControlError;
use atoll_domain::Principal;
use axum::extract::FromRequestParts;
use http::header::AUTHORIZATION;
use http::request::Parts;

use crate::Web;
use crate::error::WebError;

/// Who is at the other end of the data directory's socket.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LocalPeer {
    /// Root, or the user whose Atoll this is.
    Owner(u32),
    /// Somebody else, who needs a key.
    Other,
}

/// The principal that a request acts as.
#[derive(Debug)]
pub(crate) struct Caller(pub(crate) Principal);

impl FromRequestParts<Web> for Caller {
    type Rejection = WebError;

    async fn from_request_parts(parts: &mut Parts, web: &Web) -> Result<Self, WebError> {
        if let Some(key) = key(parts)? {
            return Ok(Self(web.control.authenticate_key(key).await?));
        }
        match parts.extensions.get::<LocalPeer>() {
            Some(LocalPeer::Owner(uid)) => Ok(Self(web.control.local_principal(*uid))),
            Some(LocalPeer::Other) => {
                Err(ControlError::Forbidden { who: "this user of the machine without an API key" }.into())
            }
            None => Err(ControlError::Unauthorized.into()),
        }
    }
}

/// The key that a request carries.
fn key(parts: &Parts) -> Result<Option<&str>, ControlError> {
    if let Some(value) = parts.headers.get(API_KEY) {
        return value.to_str().map(Some).map_err(|_| ControlError::Unauthorized);
    }
    let Some(value) = parts.headers.get(AUTHORIZATION) else {
        return Ok(None);
    };
    let value = value.to_str().map_err(|_| ControlError::Unauthorized)?;
    let (scheme, key) = value.split_once(' ').ok_or(ControlError::Unauthorized)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(Some(key.trim())) } else { Err(ControlError::Unauthorized) }
}
