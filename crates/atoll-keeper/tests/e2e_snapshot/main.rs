//! Snapshots of a real guest: taken, restored, flattened, refused.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and may say what it saw"
)]

#[path = "../scene/mod.rs"]
mod scene;

mod generations;
mod guest;
mod refused;
