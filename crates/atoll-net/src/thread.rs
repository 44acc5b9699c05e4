//! Work inside a network namespace, on a thread of its own.
//!
//! How it works: `unshare` and `setns` change the calling thread for good, and an async runtime's threads are shared; so the
//! work runs on a fresh thread that ends with it.
//!
//! Deliberately absent: a pool. Starting a thread costs some 20 µs.

use std::fs::File;
use std::os::fd::AsFd;

use nix::sched::{CloneFlags, setns, unshare};

use crate::NetError;

/// Runs `work` on a fresh thread and waits for its answer.
pub(crate) fn on_own_thread<T: Send>(work: impl FnOnce() -> Result<T, NetError> + Send) -> Result<T, NetError> {
    std::thread::scope(|scope| scope.spawn(work).join().unwrap_or(Err(NetError::Thread)))
}

/// Puts this thread into a new namespace.
pub(crate) fn enter_new() -> Result<(), NetError> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| NetError::step("make a network namespace")(errno.into()))
}

/// Puts this thread into an open namespace.
pub(crate) fn enter(netns: impl AsFd) -> Result<(), NetError> {
    setns(netns, CloneFlags::CLONE_NEWNET).map_err(|errno| NetError::step("enter a network namespace")(errno.into()))
}

/// The namespace that this thread is in.
pub(crate) fn current() -> Result<File, NetError> {
    let path = "/proc/thread-self/ns/net";
    File::open(path).map_err(NetError::file("open", path))
}

/// Refuses to go on without root.
pub(crate) fn need_root() -> Result<(), NetError> {
    if nix::unistd::geteuid().is_root() { Ok(()) } else { Err(NetError::NeedsRoot) }
}
