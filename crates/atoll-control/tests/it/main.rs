//! The service layer with its real database and a simulated host: what it promises when something goes wrong in between.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and may say what it saw"
)]

mod access;
mod create;
mod destroy;
mod events;
mod exec;
mod life;
mod once;
mod pause;
mod reconcile;
mod resume;
mod scrub;
mod snapshots;
mod uses;
