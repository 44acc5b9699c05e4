//! `/files`: contents of files, streamed in both directions.
//!
//! How it works: file calls block, so each transfer has one blocking task and a short channel: at most a few pieces are
//! in memory. Files are opened as root; the user of a request decides where `~` is and whom a new file belongs to.
//!
//! Deliberately absent: the tree (`filesystem/`).

mod buffers;
mod conditions;
pub(crate) mod multipart;
pub(crate) mod range;
mod read;
mod upload;
mod write;

use std::{
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use http::{HeaderMap, Uri};

use crate::{
    error::AgentError,
    http::{App, identity, query},
    paths,
    settings::SignedFile,
    users::{self, User},
};
pub(crate) use read::read;
pub(crate) use write::write;

/// How large a piece is.
const PIECE: usize = 128 * 1024;
/// How many pieces wait between disk and wire.
const PIECES: usize = 4;

/// What a request for a file names.
struct Target {
    user: User,
    /// The path of the query; absent when a form names the files.
    path: Option<PathBuf>,
}

/// Checks token or signature and finds out what is meant.
fn target(app: &App, uri: &Uri, headers: &HeaderMap, operation: &str) -> Result<Target, AgentError> {
    let query = uri.query();
    let name = query::value(query, "username");
    let path = query::value(query, "path");
    match query::value(query, "signature") {
        None => identity::check(&app.settings, headers)?,
        Some(signature) => {
            let expiration = query::value(query, "signature_expiration")
                .filter(|text| !text.is_empty())
                .map(|text| text.parse().map_err(|_| AgentError::BadToken))
                .transpose()?;
            let signed = SignedFile {
                path: path.as_deref().unwrap_or(""),
                operation,
                user: name.as_deref().unwrap_or(""),
                expiration,
            };
            app.settings.check_signature(&signature, &signed, now())?;
        }
    }
    let user = match name.filter(|name| !name.is_empty()) {
        Some(name) => users::find(&name)?,
        None => identity::user(&app.settings, headers)?,
    };
    let path = path.map(|path| paths::resolve(&path, &user)).transpose()?;
    Ok(Target { user, path })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
