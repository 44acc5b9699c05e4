//! Starting the VMM as a child that cannot outlive the keeper.
//!
//! How it works: `clone` with a new PID namespace, so the VMM is PID 1 of its own and sees no other process. The child joins its
//! cgroups, leaves the keeper's process group, enters the empty network, drops privilege, asks for SIGKILL at the keeper's death (after the drop, which would
//! clear it), looks at a pipe that ends with the keeper in case it died before that, and executes QEMU. A second pipe,
//! closed by the execution, tells the keeper that it happened.
//!
//! Deliberately absent: a shell, an environment.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, execve, pipe2, setsid};

use super::files::{Disks, join};
use super::{MemoryFiles, Vmm, privilege, seccomp};
use crate::qemu::args::{Descriptors, arguments};
use crate::{KeeperError, KeeperSpec};

/// More processes and threads of this uid than QEMU ever has.
const MAX_PROCESSES: u64 = 200;

/// The two ends of a pipe.
pub(super) struct Pipe {
    pub(super) read: OwnedFd,
    pub(super) write: OwnedFd,
}

pub(super) fn pipe() -> Result<Pipe, KeeperError> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(KeeperError::errno("make a pipe"))?;
    Ok(Pipe { read, write })
}

/// The descriptors that the VMM keeps.
pub(super) struct Inherited {
    pub(super) tap: OwnedFd,
    pub(super) qmp: OwnedFd,
    pub(super) console: OwnedFd,
    pub(super) disks: Disks,
    pub(super) log: OwnedFd,
}

/// A child that has executed QEMU, or died.
pub(super) struct Child {
    pid: Pid,
    life: OwnedFd,
}

/// Starts the VMM; answers when it has been executed.
pub(super) fn spawn(
    spec: &KeeperSpec,
    inherited: Inherited,
    cgroups: Vec<File>,
    void: &File,
) -> Result<Child, KeeperError> {
    let descriptors = Descriptors {
        tap: inherited.tap.as_raw_fd(),
        qmp: inherited.qmp.as_raw_fd(),
        console: inherited.console.as_raw_fd(),
        base: inherited.disks.base.as_raw_fd(),
        cow: inherited.disks.cow.as_raw_fd(),
        memory: inherited.disks.memory.as_raw_fd(),
        state: inherited.disks.state.as_ref().map(|fd| fd.as_raw_fd()),
    };
    let words = arguments(spec, &descriptors);
    let nul = |e: std::ffi::NulError| KeeperError::Spec(e.to_string());
    let argv = words.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>().map_err(nul)?;
    let program = CString::new(spec.jail.program.to_string_lossy().into_owned()).map_err(nul)?;
    let filter = seccomp::program();
    let (life, executed) = (pipe()?, pipe()?);
    let flags = i64::from(libc::SIGCHLD) | i64::from(CloneFlags::CLONE_NEWPID.bits());
    // SAFETY: this process has one thread, so the child may do anything a process may; a null stack means a copy of ours,
    // as with fork.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match pid {
        0 => {
            drop(life.write);
            let error = become_vmm(spec, &inherited, &cgroups, void, &life.read, (&program, &argv), filter);
            let text = format!(
                "{error}: {}\n",
                std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default()
            );
            // The keeper reads this as the VMM's last words; if even that fails, the exit code is left.
            let _ = File::from(inherited.log).write_all(text.as_bytes());
            // SAFETY: _exit ends the child without running the parent's exit handlers.
            unsafe { libc::_exit(98) }
        }
        pid if pid > 0 => {
            drop(executed.write);
            let mut nothing = [0];
            // Ends at the execution, or at the child's death.
            let _ = File::from(executed.read).read(&mut nothing);
            let pid = Pid::from_raw(i32::try_from(pid).unwrap_or(-1));
            Ok(Child { pid, life: life.write })
        }
        _ => Err(KeeperError::step("start the VMM")(std::io::Error::last_os_error())),
    }
}

/// Runs in the child; comes back only with an error.
fn become_vmm(
    spec: &KeeperSpec,
    inherited: &Inherited,
    cgroups: &[File],
    void: &File,
    life: &OwnedFd,
    (program, argv): (&CString, &[CString]),
    mut filter: Vec<libc::sock_filter>,
) -> KeeperError {
    let mut prepare = || -> Result<(), KeeperError> {
        join(cgroups)?;
        // A process group of its own: `kill(0, …)` reaches the whole group, through the borders of PID namespaces.
        setsid().map_err(KeeperError::errno("make the VMM's session"))?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("proc"), "/proc", Some("proc"), flags, Some("subset=pid,hidepid=2"))
            .map_err(KeeperError::errno("mount the jail's /proc"))?;
        setns(void, CloneFlags::CLONE_NEWNET).map_err(KeeperError::errno("enter the empty network"))?;
        setrlimit(Resource::RLIMIT_FSIZE, inherited.disks.largest, inherited.disks.largest)
            .map_err(KeeperError::errno("limit file sizes"))?;
        setrlimit(Resource::RLIMIT_NPROC, MAX_PROCESSES, MAX_PROCESSES)
            .map_err(KeeperError::errno("limit processes"))?;
        privilege::drop_to(spec.jail.uid)?;
        prctl::set_pdeathsig(Signal::SIGKILL).map_err(KeeperError::errno("ask for death with the keeper"))?;
        let mut ended = [PollFd::new(life.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ended, PollTimeout::ZERO).map_err(KeeperError::errno("look at the keeper"))? != 0 {
            return Err(KeeperError::step("go on: the keeper is dead")(std::io::ErrorKind::BrokenPipe.into()));
        }
        let disks = &inherited.disks;
        let always = [&inherited.tap, &inherited.qmp, &inherited.console, &disks.base, &disks.cow, &disks.memory];
        for fd in always.into_iter().chain(&disks.state) {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty())).map_err(KeeperError::errno("pass a descriptor on"))?;
        }
        let null = pipe()?;
        dup2_stdin(&null.read).map_err(KeeperError::errno("set standard input"))?;
        dup2_stdout(&inherited.log).map_err(KeeperError::errno("set standard output"))?;
        dup2_stderr(&inherited.log).map_err(KeeperError::errno("set standard error"))?;
        // SAFETY: the signals that the keeper ignores must not stay ignored in QEMU.
        unsafe {
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            libc::signal(libc::SIGTERM, libc::SIG_DFL);
            libc::signal(libc::SIGINT, libc::SIG_DFL);
            libc::signal(libc::SIGHUP, libc::SIG_DFL);
        }
        seccomp::install(&mut filter)
    };
    if let Err(error) = prepare() {
        return error;
    }
    let environment: [CString; 0] = [];
    let Err(errno) = execve(program, argv, &environment);
    KeeperError::errno("execute QEMU")(errno)
}

/// Opens what the keeper needs of its child, while it still may.
pub(super) fn watch(child: Child, proc_dir: &File) -> Result<Vmm, KeeperError> {
    // SAFETY: pidfd_open takes its arguments by value; the child is ours and not reaped, so its number is its own.
    let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, child.pid.as_raw(), 0) };
    let raw = RawFd::try_from(raw).unwrap_or(-1);
    if raw < 0 {
        return Err(KeeperError::step("watch the VMM")(std::io::Error::last_os_error()));
    }
    // SAFETY: the descriptor is fresh and owned by nobody else.
    let pidfd = unsafe { OwnedFd::from_raw_fd(raw) };
    let open = |name: &str, write: OFlag| {
        let path = format!("{}/{name}", child.pid);
        let opened =
            nix::fcntl::openat(proc_dir, path.as_str(), write | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty());
        opened.map(File::from).ok()
    };
    let mut stat = String::new();
    if let Some(mut file) = open("stat", OFlag::O_RDONLY) {
        // A child that is dead already has no start time to be known by; its exit is seen at once.
        let _ = file.read_to_string(&mut stat);
    }
    let memory = match (open("mem", OFlag::O_RDWR), open("pagemap", OFlag::O_RDONLY), open("maps", OFlag::O_RDONLY)) {
        (Some(mem), Some(pagemap), Some(maps)) => Some(MemoryFiles { mem, pagemap, maps }),
        _ => None,
    };
    Ok(Vmm { pid: child.pid, pidfd, start: start_time(&stat).unwrap_or(0), memory, life: child.life })
}

/// Field 22 of `/proc/PID/stat`; the name in field 2 may hold anything, so counting begins behind its last parenthesis.
pub(crate) fn start_time(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}
