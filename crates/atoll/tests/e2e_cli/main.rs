//! The command line against a real Atoll with real VMs. Needs root, QEMU and a binary that carries keeper and guest agent.

mod commands;
mod copy;
mod proxy;
mod pty;
mod server;
mod shell;
