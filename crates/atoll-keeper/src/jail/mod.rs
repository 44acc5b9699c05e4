//! Building the jail and starting the VMM in it.
//!
//! How it works: in this order, because each step needs what a later one gives up:
//! 1. in the host's network: the socket that is served, the resolvers' sockets;
//! 2. the cgroups, the disks, the memory file: everything of the sandbox becomes a descriptor;
//! 3. in the sandbox's network: the TAP, the DNS socket; sockets made later belong to it too;
//! 4. a mount namespace whose root is the shared tree, read-only, with kernel and initramfs bound in for a cold start;
//! 5. a child in a PID namespace and a session of its own: cgroup, `/proc`, empty network, no privilege, death with the keeper,
//!    seccomp, QEMU;
//! 6. the child's memory files, opened while that is still allowed; then the keeper drops to the same uid.
//!
//! Deliberately absent: removing anything. Namespaces of the keeper go with it; the rest is the host agent's.

mod files;
mod privilege;
mod root;
pub mod seccomp;
mod vmm;

use std::fs::File;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Instant;

use nix::sched::{CloneFlags, setns};

use crate::memory::Digest;
use crate::spec::Memory;
use crate::{KeeperError, KeeperSpec};

/// What a keeper holds once its VMM has started.
#[derive(Debug)]
pub struct Started {
    /// Where the host agent connects.
    pub listener: UnixListener,
    /// The VMM's control channel.
    pub qmp: UnixStream,
    /// The guest's console.
    pub console: UnixStream,
    /// What the VMM writes to its standard error.
    pub log: OwnedFd,
    /// The VMM.
    pub vmm: Vmm,
    /// What guest memory is a private mapping of, and how large.
    pub memory: MemoryBase,
    /// What the machine goes on from, if it does.
    pub restore: Option<Restore>,
    /// Where the guest asks for names, if it may.
    pub dns: Option<Dns>,
    /// The phases with their microseconds.
    pub phases: Vec<(String, u64)>,
}

/// What guest memory is a private mapping of.
#[derive(Debug)]
pub struct MemoryBase {
    /// The same file that the VMM maps.
    pub file: File,
    /// Its length, which is the guest's memory.
    pub bytes: u64,
    /// Whether it is a write-sealed memfd that others may have.
    pub sealed: bool,
}

/// The files that a restore reads, with the digests that they must have.
#[derive(Debug)]
pub struct Restore {
    /// The state of the devices.
    pub state: (File, Digest),
    /// The memory that differs from the base.
    pub diff: Option<(File, Digest)>,
    /// The number under which the VMM has the state.
    pub state_fd: RawFd,
}

/// The VMM's process.
#[derive(Debug)]
pub struct Vmm {
    /// In the host's numbering.
    pub pid: nix::unistd::Pid,
    /// Readable when it has ended.
    pub pidfd: OwnedFd,
    /// Clock ticks since boot at its start.
    pub start: u64,
    /// Its memory and the maps of it, opened before privilege was dropped; pause and restore read and write through them.
    pub memory: Option<MemoryFiles>,
    /// Open as long as the keeper lives: its end tells a child that came too late.
    pub life: OwnedFd,
}

/// `/proc/<vmm>/…`, opened early.
#[derive(Debug)]
pub struct MemoryFiles {
    /// `mem`
    pub mem: File,
    /// `pagemap`
    pub pagemap: File,
    /// `maps`
    pub maps: File,
}

/// The sockets of the DNS forwarder.
#[derive(Debug)]
pub struct Dns {
    /// At the gateway's address, in the sandbox's network.
    pub guest: UdpSocket,
    /// Connected to a resolver each, in the host's network.
    pub upstream: Vec<UdpSocket>,
}

/// Measures one phase after the other.
struct Phases {
    last: Instant,
    done: Vec<(String, u64)>,
}

impl Phases {
    fn end(&mut self, name: &str) {
        let micros = u64::try_from(self.last.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.done.push((name.into(), micros));
        self.last = Instant::now();
    }
}

/// Builds the jail of the sandbox in `dir` and starts its VMM.
///
/// # Errors
/// The step that failed; nothing runs then.
pub fn start(spec: &KeeperSpec, dir: &Path) -> Result<Started, KeeperError> {
    let mut phases = Phases { last: Instant::now(), done: Vec::new() };
    let listener = files::listen(dir)?;
    let upstream = files::upstream(&spec.network.resolvers);
    let proc_dir = File::open("/proc").map_err(KeeperError::file("open", "/proc"))?;
    let vmm_cgroups = files::cgroups(&spec.jail.vmm_cgroups)?;
    files::join(&files::cgroups(&spec.jail.keeper_cgroups)?)?;
    let void = open(&spec.network.void_netns)?;
    phases.end("sockets");
    let disks = files::Disks::open(spec)?;
    let memory = MemoryBase {
        file: File::from(disks.memory.try_clone().map_err(KeeperError::step("keep the memory base"))?),
        bytes: spec.machine.memory_bytes(),
        sealed: spec.machine.memory == Memory::Sealed,
    };
    let mut restore = files::restore(spec)?;
    if let (Some(restore), Some(fd)) = (&mut restore, &disks.state) {
        restore.state_fd = fd.as_raw_fd();
    }
    phases.end("files");
    let netns = open(&spec.network.netns)?;
    setns(&netns, CloneFlags::CLONE_NEWNET).map_err(KeeperError::errno("enter the sandbox's network"))?;
    let tap = files::tap(&spec.network.tap)?;
    let dns = files::dns(spec.network.gateway, upstream)?;
    phases.end("network");
    root::enter(spec)?;
    phases.end("root");
    let (qmp, vmm_qmp) = pair()?;
    let (console, vmm_console) = pair()?;
    let log = vmm::pipe()?;
    let inherited = vmm::Inherited { tap, qmp: vmm_qmp.into(), console: vmm_console.into(), disks, log: log.write };
    let child = vmm::spawn(spec, inherited, vmm_cgroups, &void)?;
    phases.end("spawn");
    let vmm = vmm::watch(child, &proc_dir)?;
    privilege::drop_to(spec.jail.uid)?;
    privilege::not_dumpable()?;
    phases.end("drop");
    Ok(Started { listener, qmp, console, log: log.read, vmm, memory, restore, dns, phases: phases.done })
}

fn open(path: &Path) -> Result<File, KeeperError> {
    File::open(path).map_err(KeeperError::file("open", path))
}

fn pair() -> Result<(UnixStream, UnixStream), KeeperError> {
    UnixStream::pair().map_err(KeeperError::step("make a socket pair"))
}
