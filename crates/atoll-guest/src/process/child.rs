//! A child by its pidfd: told when it ends, reaped exactly once, and never anybody
//! else's child.
//!
//! How it works: a pidfd in the runtime tells of the end; the child is looked at without reaping and reaped once, by
//! its pid.
//!
//! Deliberately absent: `tokio::process`, and SIGCHLD.
#![expect(unsafe_code, reason = "pidfd_open, waitid, waitpid and the terminal's ioctls")]

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use tokio::io::{Interest, unix::AsyncFd};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Code(i32),
    Signal(i32),
}

impl Exit {
    /// As a shell would say it.
    pub(crate) fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }

    /// In words, as the wire wants it.
    pub(crate) fn status(self) -> String {
        match self {
            Self::Code(code) => format!("exit status {code}"),
            Self::Signal(signal) => format!("signal: {}", signal_name(signal)),
        }
    }
}

fn signal_name(signal: i32) -> String {
    match signal {
        libc::SIGKILL => "killed".into(),
        libc::SIGTERM => "terminated".into(),
        libc::SIGINT => "interrupt".into(),
        libc::SIGHUP => "hangup".into(),
        libc::SIGSEGV => "segmentation fault".into(),
        libc::SIGABRT => "aborted".into(),
        libc::SIGPIPE => "broken pipe".into(),
        other => other.to_string(),
    }
}

/// A running child of this process.
pub(crate) struct Child {
    pid: libc::pid_t,
    pidfd: AsyncFd<OwnedFd>,
}

impl Child {
    /// Takes over a child that was just forked and not waited for.
    pub(crate) fn new(pid: libc::pid_t) -> io::Result<Self> {
        // SAFETY: a system call without pointers; the descriptor it gives is new.
        let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, libc::PIDFD_NONBLOCK) };
        let raw = i32::try_from(raw).map_err(io::Error::other)?;
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave this descriptor to us alone.
        let pidfd = unsafe { OwnedFd::from_raw_fd(raw) };
        Ok(Self { pid, pidfd: watched(pidfd, Interest::READABLE)? })
    }

    /// Waits for its end without reaping it: until [`reap`], its pid stays its own.
    pub(crate) async fn ended(&self) -> io::Result<Exit> {
        loop {
            let mut guard = self.pidfd.readable().await?;
            match look(self.pid)? {
                Some(exit) => return Ok(exit),
                None => guard.clear_ready(),
            }
        }
    }
}

/// Hands a descriptor to the runtime.
pub(crate) fn watched(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd keeps its descriptor open and the same for as long as it lives.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(io::Error::from)
}

/// How a child ended, if it has, leaving it to be reaped.
fn look(pid: libc::pid_t) -> io::Result<Option<Exit>> {
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    let id = libc::id_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: `info` is a valid place for the answer, zeroed as waitid(2) advises; the
    // fields of a child's end are read only when it filled them in.
    unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        if libc::waitid(libc::P_PID, id, &raw mut info, flags) != 0 {
            return Err(io::Error::last_os_error());
        }
        if info.si_pid() == 0 {
            return Ok(None);
        }
        let status = info.si_status();
        Ok(Some(match info.si_code {
            libc::CLD_EXITED => Exit::Code(status),
            _ => Exit::Signal(status),
        }))
    }
}

/// Reaps one child that has ended or is just ending, by its pid and no other.
pub(crate) fn reap(pid: libc::pid_t) {
    loop {
        let mut status = 0;
        // SAFETY: `status` is a valid place for the answer.
        let reaped = unsafe { libc::waitpid(pid, &raw mut status, 0) };
        let interrupted = reaped < 0 && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted;
        if !interrupted {
            return;
        }
    }
}

/// Sends a signal to a process group that this process is known to own.
pub(crate) fn signal_group(leader: u32, signal: i32) -> io::Result<()> {
    let leader = libc::pid_t::try_from(leader).map_err(io::Error::other)?;
    // SAFETY: a system call without pointers.
    if unsafe { libc::killpg(leader, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Opens a terminal: the side that the agent keeps, and the side for the child.
pub(crate) fn open_terminal(cols: u16, rows: u16, owner: u32) -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC | libc::O_NONBLOCK;
    // SAFETY: system calls on constant strings and integers; each descriptor that
    // comes back is new and owned here alone.
    unsafe {
        let master = libc::open(c"/dev/ptmx".as_ptr(), flags);
        if master < 0 {
            return Err(io::Error::last_os_error());
        }
        let master = OwnedFd::from_raw_fd(master);
        let unlock: libc::c_int = 0;
        if libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) != 0 {
            return Err(io::Error::last_os_error());
        }
        let slave = libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC);
        if slave < 0 {
            return Err(io::Error::last_os_error());
        }
        let slave = OwnedFd::from_raw_fd(slave);
        // The group of terminals is 5 on Debian; without it the owner's rights are enough.
        libc::fchown(slave.as_raw_fd(), owner, 5);
        libc::fchmod(slave.as_raw_fd(), 0o620);
        resize(&master, cols, rows)?;
        Ok((master, slave))
    }
}

/// Changes a terminal's size; its foreground group is told by the kernel.
pub(crate) fn resize(master: &OwnedFd, cols: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: `size` is valid for the call.
    if unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
