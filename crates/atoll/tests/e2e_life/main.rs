//! The life of real sandboxes on a host agent in this process: pause, resume, templates, limits.
//!
//! How it works: the host agent is driven through `HostDriver`, as the control plane does; each test has a data directory of its own, and at
//! its end the machine is searched for anything left. It needs root, and keeper and guest agent inside the test program, as
//! `cargo xtask test` builds it.
//!
//! Deliberately absent: the API above (`e2e`).
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and may say what it saw"
)]

mod copies;
mod damage;
#[path = "../../src/up/driver.rs"]
mod driver;
#[path = "../../src/embedded.rs"]
mod embedded;
mod forks;
mod forms;
mod goldens;
#[path = "../shared/holding.rs"]
mod holding;
#[path = "../shared/host_config.rs"]
mod host_config;
mod host_keys;
mod known;
mod meanwhile;
mod pauses;
mod scene;
mod secrets;
mod still;
