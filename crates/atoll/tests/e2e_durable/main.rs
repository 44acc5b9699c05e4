//! What an Atoll keeps through a host's troubles: hung processes, a full disk, a restart of the machine, a newer build, a neighbour;
//! and through its own end: limits, samples, sandboxes that a stop pauses.
//!
//! How it works: real Atolls with real VMs, started and killed as the kill matrix does it, and judged by its checker. Where a trouble
//! cannot be had in a test (the machine's restart, a newer build), what it leaves behind is written by the test, which says so.
//!
//! Deliberately absent: dying at a step (the kill matrix).
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and may say what it saw"
)]

#[path = "../kill_matrix/case.rs"]
#[allow(dead_code, reason = "the kill matrix uses the rest")]
mod case;
#[path = "../kill_matrix/checker.rs"]
#[allow(dead_code, reason = "the kill matrix uses the rest")]
mod checker;
mod counter;
mod disk;
mod failed_pause;
mod followed;
#[path = "../shared/holding.rs"]
mod holding;
#[path = "../kill_matrix/kept.rs"]
#[allow(dead_code, reason = "the kill matrix uses the rest")]
mod kept;
mod limits;
#[path = "../kill_matrix/objects.rs"]
#[allow(dead_code, reason = "the kill matrix uses the rest")]
mod objects;
mod on_exit;
mod overwrites;
mod paused;
mod remains;
mod restart;
mod rings;
mod silent;
mod stopped_agent;
mod told;
mod two;
#[path = "../kill_matrix/wiring.rs"]
mod wiring;
#[path = "../kill_matrix/world.rs"]
#[allow(dead_code, reason = "the kill matrix uses the rest")]
mod world;

use atoll_api::{Sandbox, SandboxStatus};
use std::time::Duration;

use world::{LIMIT, World, until};

impl World {
    /// One whose Atoll answers.
    async fn running() -> Self {
        let mut world = Self::empty();
        world.up().await;
        world
    }

    /// Starts Atoll and waits until it answers.
    async fn up(&mut self) {
        self.kill();
        self.start(&[]).unwrap();
        let never = self.file("never");
        assert_eq!(self.is_up(&never).await, Ok(true), "{}", self.last_log());
    }

    /// Waits until everything that tells of sandboxes agrees.
    async fn agrees(&self) {
        let (data, client) = (self.data(), self.client());
        let agreed = until("agreement", LIMIT, async || checker::compare(&data, &client).await).await;
        assert_eq!(agreed, Ok(()), "{}", self.last_log());
    }

    /// Waits until a sandbox is over; with its record.
    async fn over(&self, id: &str) -> Sandbox {
        let client = self.client();
        let over = until("its end", LIMIT, async || match client.sandbox(id).await {
            Ok(sandbox) if sandbox.status == SandboxStatus::Stopped => Ok(sandbox),
            other => Err(format!("{other:?}")),
        });
        over.await.unwrap_or_else(|why| panic!("{why}\n{}", self.last_log()))
    }
}

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);
