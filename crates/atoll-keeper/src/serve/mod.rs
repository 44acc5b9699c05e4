//! The keeper's life after the start: one loop over everything that can happen.
//!
//! How it works: `poll` over the served socket, its connections, the VMM's end, its control channel, console and log, and the DNS
//! sockets. Nothing here waits: sockets are non-blocking, outputs are bounded, commands to QEMU have deadlines; so `state`
//! and `kill` answer even while QEMU hangs. What must wait, reading a guest's memory and putting files on disk, is done by a
//! forked child ([`worker`]), because no slice of an fsync is short.
//!
//! ```text
//!   unclaimed ──claim──> claimed ──connection lost──> waiting for a claim (the VM goes on)
//!       │ 60 s              │ exit, or VMM ended and 10 min
//!       └──────> end <──────┘
//! ```
//!
//! Deliberately absent: threads; timers other than the poll's timeout.

mod connection;
mod dns;
mod keeper;
mod ops;
mod restore;
mod ring;
mod snapshot;
mod worker;

use std::path::Path;

pub use ring::Ring;

use crate::{KeeperError, KeeperSpec, jail};

/// Runs a keeper for the sandbox in `dir` until it ends.
///
/// # Errors
/// When the jail or the VMM cannot be started.
pub fn run(dir: &Path) -> Result<(), KeeperError> {
    // A session of its own, so that nothing sent to Atoll's terminal or group reaches it. Fails only if it is a leader already.
    let _ = nix::unistd::setsid();
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    // SAFETY: ignoring a signal installs no handler.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        libc::signal(libc::SIGHUP, libc::SIG_IGN);
        libc::signal(libc::SIGINT, libc::SIG_IGN);
    }
    // Whatever Atoll's own parent left open would reach the VMM. Nothing of ours is open yet.
    // SAFETY: takes its arguments by value; a kernel without the call leaves them open.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
    let spec = KeeperSpec::read(dir)?;
    let started = jail::start(&spec, dir)?;
    keeper::Keeper::new(&spec, started)?.serve()
}
