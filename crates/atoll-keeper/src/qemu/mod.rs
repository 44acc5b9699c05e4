//! QEMU as the VMM: its command line and its control channel.
//!
//! How it works: [`args`] writes the one command line that a spec means; [`qmp`] speaks QMP without ever waiting.
//!
//! Deliberately absent: what is to be said when; the keeper's loop does that.

pub mod args;
pub mod qmp;
