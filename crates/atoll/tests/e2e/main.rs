//! The built binary with real VMs, from outside: over its API, its command line and what it leaves on the machine.
//!
//! How it works: [`server::Server`] starts `atoll up` on a data directory of its own; tests that need no other share one. Each test makes its
//! own sandboxes and ends them; when a server ends, the machine itself is searched for anything left. Needs root, and a binary
//! of `cargo xtask build` (`ATOLL_BIN`, else `target/release/atoll`).
//!
//! Deliberately absent: any order between tests, and figures.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and may say what it saw"
)]

mod bad_input;
mod command_line;
#[path = "../../src/up/driver.rs"]
mod driver;
mod drivers;
#[path = "../../src/embedded.rs"]
mod embedded;
mod exec;
mod files;
mod flood;
mod guest;
#[path = "../shared/host_config.rs"]
mod host_config;
mod isolation;
mod life;
mod lifecycle;
mod network;
mod own;
mod sandbox;
mod server;
mod streams;
mod wire;
mod world;
