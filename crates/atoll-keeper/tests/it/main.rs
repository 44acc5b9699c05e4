//! What the keeper's parts promise, through their public interfaces.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and may say what it saw"
)]

mod command_line;
mod hostile;
mod memory;
mod patience;
mod versions;
