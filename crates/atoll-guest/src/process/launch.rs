//! Fork and exec by hand: as another user, in a session and a cgroup of its own.
//!
//! How it works: the child does nothing but system calls on memory that was prepared before the fork. Why it failed
//! comes back through a pipe that a successful exec closes.
//!
//! Deliberately absent: std's Command: it reaps on its own terms, and cannot tell a missing program from a missing
//! directory.
#![expect(unsafe_code, reason = "fork, exec and raw system calls")]

use std::{
    ffi::{CString, c_int},
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    ptr,
};

/// Everything a child needs, ready before the fork.
pub(crate) struct Launch {
    /// Paths to try in turn, as a shell's PATH search does.
    pub(crate) candidates: Vec<CString>,
    pub(crate) arguments: Vec<CString>,
    pub(crate) environment: Vec<CString>,
    pub(crate) cwd: CString,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    /// Standard input, output and error of the child.
    pub(crate) stdio: [OwnedFd; 3],
    /// Standard input is a terminal that the child's session shall own.
    pub(crate) terminal: bool,
    /// `cgroup.procs` of the child's own group.
    pub(crate) cgroup: Option<OwnedFd>,
}

/// What the child was doing when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stage {
    Prepare = 1,
    User = 2,
    Directory = 3,
    Exec = 4,
}

impl Stage {
    fn of(byte: u8) -> Self {
        match byte {
            2 => Self::User,
            3 => Self::Directory,
            4 => Self::Exec,
            _ => Self::Prepare,
        }
    }
}

/// Reads what a failed child wrote into the pipe; `None` means that it runs.
pub(crate) fn failure(report: &[u8]) -> Option<(Stage, io::Error)> {
    let (&stage, errno) = report.split_first()?;
    let errno: [u8; 4] = errno.try_into().ok()?;
    let error = io::Error::from_raw_os_error(i32::from_ne_bytes(errno));
    Some((Stage::of(stage), error))
}

/// What whoever started the agent may have had it ignore; a program begins with none of these ignored.
const OFTEN_IGNORED: [c_int; 5] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGPIPE, libc::SIGTERM];

/// How many bytes a failed child writes.
pub(crate) const REPORT: usize = 5;

/// Null-terminated pointers for exec. They point into the strings they were made of.
fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

/// Forks. Gives the child's pid at once; `report` gets [`REPORT`] bytes if it fails.
pub(crate) fn fork(launch: &Launch, report: &OwnedFd) -> io::Result<libc::pid_t> {
    let arguments = pointers(&launch.arguments);
    let environment = pointers(&launch.environment);
    // SAFETY: the child runs only `child`, which does nothing but system calls on
    // memory prepared above, and ends in exec or _exit.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: this is the forked child, alone in its memory.
            unsafe { child(launch, report.as_raw_fd(), &arguments, &environment) }
        }
        _ => Ok(pid),
    }
}

/// The child's whole life up to exec.
///
/// # Safety
/// Only to be called in a freshly forked child; the pointers must be valid.
unsafe fn child(
    launch: &Launch,
    report: RawFd,
    arguments: &[*const libc::c_char],
    environment: &[*const libc::c_char],
) -> ! {
    // SAFETY: see above; `steps` and `fail` do system calls only.
    unsafe {
        let (stage, errno) = steps(launch, arguments, environment);
        let mut bytes = [stage as u8; REPORT];
        bytes[1..].copy_from_slice(&errno.to_ne_bytes());
        libc::write(report, bytes.as_ptr().cast(), bytes.len());
        libc::_exit(127)
    }
}

fn errno() -> c_int {
    // SAFETY: always a valid pointer to the thread's own errno.
    unsafe { *libc::__errno_location() }
}

/// Everything up to exec; gives what failed.
///
/// # Safety
/// As [`child`].
unsafe fn steps(
    launch: &Launch,
    arguments: &[*const libc::c_char],
    environment: &[*const libc::c_char],
) -> (Stage, c_int) {
    // SAFETY: system calls on valid descriptors and prepared memory.
    unsafe {
        if let Err(errno) = prepare(launch) {
            return (Stage::Prepare, errno);
        }
        if let Err(errno) = become_user(launch) {
            return (Stage::User, errno);
        }
        if libc::chdir(launch.cwd.as_ptr()) != 0 {
            return (Stage::Directory, errno());
        }
        let mut worst = libc::ENOENT;
        for candidate in &launch.candidates {
            libc::execve(candidate.as_ptr(), arguments.as_ptr(), environment.as_ptr());
            match errno() {
                libc::ENOENT | libc::ENOTDIR => {}
                other => worst = other,
            }
        }
        (Stage::Exec, worst)
    }
}

/// Session, terminal, descriptors, cgroup, signals.
///
/// # Safety
/// As [`child`].
unsafe fn prepare(launch: &Launch) -> Result<(), c_int> {
    // SAFETY: system calls on valid descriptors and prepared memory.
    unsafe {
        if libc::setsid() < 0 {
            return Err(errno());
        }
        for (target, source) in (0..).zip(&launch.stdio) {
            // Sources are never 0, 1 or 2: the agent keeps those open.
            if libc::dup2(source.as_raw_fd(), target) < 0 {
                return Err(errno());
            }
        }
        if launch.terminal && libc::ioctl(0, libc::TIOCSCTTY, 0) != 0 {
            return Err(errno());
        }
        if let Some(cgroup) = &launch.cgroup
            && libc::write(cgroup.as_raw_fd(), c"0".as_ptr().cast(), 1) != 1
        {
            return Err(errno());
        }
        be_killable();
        libc::umask(0o022);
        let files = libc::rlimit { rlim_cur: 1024, rlim_max: 524_288 };
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const files);
        for signal in OFTEN_IGNORED {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        Ok(())
    }
}

/// The agent is the last to be killed when memory runs out; its children are not.
///
/// # Safety
/// As [`child`].
unsafe fn be_killable() {
    // SAFETY: system calls on constant strings.
    unsafe {
        let file = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if file >= 0 {
            libc::write(file, c"100".as_ptr().cast(), 3);
            libc::close(file);
        }
    }
}

/// Raw calls: glibc's wrappers would signal threads that a forked child has not.
///
/// # Safety
/// As [`child`].
unsafe fn become_user(launch: &Launch) -> Result<(), c_int> {
    // SAFETY: system calls on prepared memory.
    unsafe {
        let set = libc::syscall(libc::SYS_setgroups, launch.groups.len(), launch.groups.as_ptr());
        if set != 0 {
            return Err(errno());
        }
        if libc::syscall(libc::SYS_setresgid, launch.gid, launch.gid, launch.gid) != 0 {
            return Err(errno());
        }
        if libc::syscall(libc::SYS_setresuid, launch.uid, launch.uid, launch.uid) != 0 {
            return Err(errno());
        }
        Ok(())
    }
}
