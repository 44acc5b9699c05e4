//! A keeper's process, whether this Atoll started it or found it.
//!
//! How it works: a pidfd names the process for good, however its number is used later. It becomes readable when the process
//! has ended, and signals go through it. One that this process started is reaped as well.
//!
//! Deliberately absent: how it ended. The keeper's own words say that of its VMM.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::Child;

/// A keeper's process.
#[derive(Debug)]
pub struct KeeperProcess {
    pidfd: AsyncFd<OwnedFd>,
    child: Option<Child>,
}

impl KeeperProcess {
    /// One that was started here.
    ///
    /// # Errors
    /// When it has been reaped already, or there are no descriptors left.
    pub fn started(child: Child) -> io::Result<Self> {
        let pid = child.id().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(Self { pidfd: open(pid)?, child: Some(child) })
    }

    /// One that was found. The caller makes sure afterwards that it is the right one: it answered after this call.
    ///
    /// # Errors
    /// When there is no process of this number, or there are no descriptors left.
    pub fn found(pid: u32) -> io::Result<Self> {
        Ok(Self { pidfd: open(pid)?, child: None })
    }

    /// Ends when the process has.
    pub async fn ended(&mut self) {
        match &mut self.child {
            // Reaped by whoever waits for it; an error means that there is nothing to wait for.
            Some(child) => drop(child.wait().await),
            None => drop(self.pidfd.ready(Interest::READABLE).await),
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        match &mut self.child {
            Some(child) => !matches!(child.try_wait(), Ok(None)),
            // Readable when it has ended, also while nobody has reaped it.
            None => {
                let mut polled = [PollFd::new(self.pidfd.get_ref().as_fd(), PollFlags::POLLIN)];
                poll(&mut polled, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
            }
        }
    }

    /// Kills it; one that has ended is no error.
    pub fn kill(&self) {
        let none = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: the pidfd is open and names one process for good; the info pointer may be null.
        unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.pidfd.get_ref().as_raw_fd(), libc::SIGKILL, none, 0);
        }
    }
}

fn open(pid: u32) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: pidfd_open takes its arguments by value.
    let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let raw = RawFd::try_from(raw).unwrap_or(-1);
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is fresh and owned by nobody else.
    let pidfd = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: the descriptor is owned by the AsyncFd and stays the same as long as that lives.
    let registered = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
    registered.map_err(Into::into)
}
