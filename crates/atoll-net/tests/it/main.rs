//! The network crate through its public interface: plans against committed text, claims, and real namespaces.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and may say what it saw"
)]

mod foreign;
mod golden;
mod namespaces;
mod slots;
