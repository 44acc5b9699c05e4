//! The database by its public interface, on real SQLite files.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and may say what it saw"
)]

mod accounts;
mod life;
mod migrations;
mod pages;
mod sandboxes;
mod support;
mod transactions;
