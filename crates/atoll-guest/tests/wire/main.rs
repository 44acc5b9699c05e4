//! The real agent and the real client, on this machine. Needs root: programs are
//! started as other users.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "a test that cannot run here says so")]

mod callers;
mod files;
mod process;
mod raw;
mod snapshot;
mod starts;
mod streams;
mod support;
