//! Routes that ready a machine for a snapshot, and for what comes after: user code stands still,
//! the disk is written back, a larger disk is used.
//!
//! How it works: the host freezes before it takes a snapshot. The same guest goes on with
//! `/unfreeze`; a restored one with `/init`, which knows what has changed meanwhile.
//!
//! Deliberately absent: a timer that thaws by itself. It would run in a restored guest as well,
//! before that one has its clock, its randomness and its name.

use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::{
    App, identity, json,
    reply::{self, Reply},
};
use crate::{error::AgentError, freeze::Freezer};

/// The longest that getting ready may take, and what it takes when nobody says.
const LONGEST: u64 = 60_000;
const DEFAULT: u64 = 200;
/// How long writing the disk back may take outside of that.
const SYNC: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Prepare {
    freeze: bool,
    sync: bool,
    timeout_ms: u64,
}

impl Default for Prepare {
    fn default() -> Self {
        Self { freeze: true, sync: false, timeout_ms: DEFAULT }
    }
}

/// Gets ready: all of it in time, or user code goes on.
pub(crate) async fn prepare(app: &App, request: Request<Incoming>) -> Result<Reply, AgentError> {
    #[derive(Serialize)]
    struct Prepared {
        frozen: bool,
    }
    identity::check(&app.settings, request.headers())?;
    let prepare: Prepare = json::read(request.into_body(), "/snapshot/prepare").await?;
    let limit = Duration::from_millis(prepare.timeout_ms.clamp(1, LONGEST));
    let freezer = &app.table.groups.freezer;
    let ready = async {
        let frozen = prepare.freeze && freezer.freeze().await?;
        if prepare.sync {
            write_back().await?;
        }
        Ok(frozen)
    };
    // A caller that leaves in between must not leave the machine frozen either.
    let thaw = Thaw(Some(freezer));
    let frozen = timeout(limit, ready)
        .await
        .map_err(|_| AgentError::Busy(format!("user code did not stand still within {} ms", limit.as_millis())))??;
    if frozen {
        thaw.keep_frozen();
    }
    Ok(reply::json(StatusCode::OK, &Prepared { frozen }))
}

/// Lets user code go on when it is dropped, unless it is told that all is well.
struct Thaw<'a>(Option<&'a Freezer>);

impl Thaw<'_> {
    fn keep_frozen(mut self) {
        self.0 = None;
    }
}

impl Drop for Thaw<'_> {
    fn drop(&mut self) {
        if let Some(freezer) = self.0 {
            freezer.thaw();
        }
    }
}

/// Lets user code go on.
pub(crate) fn unfreeze(app: &App, request: &Request<Incoming>) -> Result<Reply, AgentError> {
    identity::check(&app.settings, request.headers())?;
    app.table.groups.freezer.thaw();
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// Writes everything back to the disk.
pub(crate) async fn sync(app: &App, request: &Request<Incoming>) -> Result<Reply, AgentError> {
    identity::check(&app.settings, request.headers())?;
    timeout(SYNC, write_back())
        .await
        .map_err(|_| AgentError::Busy(format!("the disk was not written back within {} s", SYNC.as_secs())))??;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

async fn write_back() -> Result<(), AgentError> {
    tokio::task::spawn_blocking(nix::unistd::sync)
        .await
        .map_err(|error| AgentError::io("writing the disk back", std::io::Error::other(error)))
}

/// Uses what the disk has grown by.
pub(crate) async fn grow(app: &App, request: &Request<Incoming>) -> Result<Reply, AgentError> {
    identity::check(&app.settings, request.headers())?;
    let disk = app.disk.clone();
    let grown = tokio::task::spawn_blocking(move || disk.grow())
        .await
        .map_err(|error| AgentError::io("growing the file system", std::io::Error::other(error)))??;
    Ok(reply::json(StatusCode::OK, &grown))
}
