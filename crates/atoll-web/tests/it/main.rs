//! The API over real sockets: routes, errors, streams, terminals, and the document that describes them.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and may say what it saw"
)]

mod activity;
mod agent_host;
mod bounds;
mod debug_port;
mod document;
mod files;
mod hostile;
mod life;
mod rest;
mod scrub;
mod sessions;
mod streams;
mod support;
mod terminals;
