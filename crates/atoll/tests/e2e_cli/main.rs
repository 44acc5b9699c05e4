//! The command line against a real Atoll with real VMs. Needs root, QEMU and a binary that carries keeper and guest agent.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod commands;
mod copy;
mod exec;
mod proxy;
mod pty;
mod server;
mod shell;
