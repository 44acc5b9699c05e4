//! The rules, by property.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and may say what it saw"
)]

mod access;
mod actor;
mod admission;
mod golden;
mod happening;
mod ids;
mod metrics;
mod objects;
mod reconcile;
mod scrub;
mod snapshot;
mod ttl;
mod validate;
