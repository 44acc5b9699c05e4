//! The command line as its users meet it: help, outputs, exit codes. No VM boots here.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod configuration;
mod help;
mod refusals;
mod support;
