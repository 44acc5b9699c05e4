//! SIGINT and SIGTERM.
//!
//! How it works: the first asks for an orderly stop, by a token; the second ends the process at once, with 130 or 143 as a shell would
//! report it.
//!
//! Deliberately absent: SIGHUP. What `nohup` asked for holds.

use anyhow::{Context as _, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::{CancellationToken, DropGuard};

const INTERRUPTED: i32 = 130;
const TERMINATED: i32 = 143;

/// Tells of an order to stop.
#[derive(Debug)]
pub(crate) struct Stop {
    token: CancellationToken,
    _listening: DropGuard,
}

impl Stop {
    /// Cancelled by the first signal.
    pub(crate) fn token(&self) -> &CancellationToken {
        &self.token
    }
}

/// Listens for signals from now on.
pub(crate) fn on_signal() -> Result<Stop> {
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be heard")?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be heard")?;
    let token = CancellationToken::new();
    let listening = CancellationToken::new();
    let (told, over) = (token.clone(), listening.clone());
    tokio::spawn(over.run_until_cancelled_owned(async move {
        either(&mut interrupt, &mut terminate).await;
        told.cancel();
        end(either(&mut interrupt, &mut terminate).await);
    }));
    Ok(Stop { token, _listening: listening.drop_guard() })
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) -> i32 {
    tokio::select! {
        _ = interrupt.recv() => INTERRUPTED,
        _ = terminate.recv() => TERMINATED,
    }
}

#[expect(clippy::exit, reason = "a second signal asks for exactly this")]
fn end(code: i32) {
    std::process::exit(code);
}
