//! Everything that is opened before privilege is dropped.
//!
//! How it works: paths of the host are used here and nowhere later; the VMM gets descriptors only.
//!
//! Deliberately absent: the VMM's own process files ([`super::vmm`]).

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Dns, Restore};
use crate::memory::base::is_sealed;
use crate::protocol::SOCKET;
use crate::spec::{Memory, Start, Verified};
use crate::{KeeperError, KeeperSpec};

/// The socket that is served; through a descriptor of the directory, as its path may be longer than a socket's name can be.
pub(super) fn listen(dir: &Path) -> Result<UnixListener, KeeperError> {
    let handle = File::open(dir).map_err(KeeperError::file("open", dir))?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", handle.as_raw_fd()));
    match fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(KeeperError::file("remove", dir.join(SOCKET))(error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(KeeperError::file("bind", dir.join(SOCKET)))?;
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(&path, mode).map_err(KeeperError::file("set the mode of", dir.join(SOCKET)))?;
    listener.set_nonblocking(true).map_err(KeeperError::step("make the socket non-blocking"))?;
    Ok(listener)
}

/// A socket to each resolver, in the host's network; one that cannot be had is left out.
pub(super) fn upstream(resolvers: &[SocketAddr]) -> Vec<UdpSocket> {
    let connect = |resolver: &SocketAddr| {
        let local: SocketAddr = match resolver {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(local).ok()?;
        socket.connect(resolver).ok()?;
        socket.set_nonblocking(true).ok()?;
        Some(socket)
    };
    resolvers.iter().filter_map(connect).collect()
}

/// The socket at which the guest asks for names.
pub(super) fn dns(gateway: Ipv4Addr, upstream: Vec<UdpSocket>) -> Result<Option<Dns>, KeeperError> {
    if upstream.is_empty() {
        return Ok(None);
    }
    let guest = UdpSocket::bind((gateway, 53)).map_err(KeeperError::step("answer names at the gateway"))?;
    guest.set_nonblocking(true).map_err(KeeperError::step("make the DNS socket non-blocking"))?;
    Ok(Some(Dns { guest, upstream }))
}

/// The files of the groups, ready to be written.
pub(super) fn cgroups(paths: &[PathBuf]) -> Result<Vec<File>, KeeperError> {
    let open = |path: &PathBuf| OpenOptions::new().write(true).open(path).map_err(KeeperError::file("open", path));
    paths.iter().map(open).collect()
}

/// Moves this process, which has one thread, into the groups.
pub(super) fn join(groups: &[File]) -> Result<(), KeeperError> {
    for mut group in groups {
        group.write_all(b"0").map_err(KeeperError::step("join a cgroup"))?;
    }
    Ok(())
}

/// The TAP's descriptor. Its last user may be going this moment (a VMM that was killed), so a busy one is tried again.
pub(super) fn tap(name: &str) -> Result<OwnedFd, KeeperError> {
    let path = "/dev/net/tun";
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(KeeperError::file("open", path))?;
    // SAFETY: an all-zero ifreq is valid; it is plain data.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).unwrap_or_default();
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        // SAFETY: TUNSETIFF reads and writes the ifreq, which lives across the call.
        if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } >= 0 {
            return Ok(file.into());
        }
        let error = std::io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EBUSY) || Instant::now() > deadline {
            return Err(KeeperError::step(format!("take the TAP {name}"))(error));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The files that the VMM works on.
#[derive(Debug)]
pub(super) struct Disks {
    /// The template's image, read only.
    pub(super) base: OwnedFd,
    /// The sandbox's disk.
    pub(super) cow: OwnedFd,
    /// What guest memory maps privately. The VMM opens it once more through `/proc/self/fd`, so its uid must be let in.
    pub(super) memory: OwnedFd,
    /// The state of the devices, for a restore.
    pub(super) state: Option<OwnedFd>,
    /// The largest offset that the VMM may ever write.
    pub(super) largest: u64,
}

impl Disks {
    pub(super) fn open(spec: &KeeperSpec) -> Result<Self, KeeperError> {
        let machine = &spec.machine;
        let base = read_only(&machine.base)?;
        let cow = OpenOptions::new().read(true).write(true).open(&machine.cow);
        let cow = cow.map_err(KeeperError::file("open", &machine.cow))?;
        let bytes = machine.memory_bytes();
        let memory = match &machine.memory {
            Memory::File { path } => memory_file(path, bytes, spec)?,
            Memory::Sealed => sealed_memory(bytes)?,
        };
        let state = match &machine.start {
            Start::Cold { .. } => None,
            Start::Restore { state, .. } => Some(read_only(&state.path)?.into()),
        };
        let disk = cow.metadata().map_err(KeeperError::file("read", &machine.cow))?.len();
        let largest = bytes.max(disk).max(machine.cow_limit);
        Ok(Self { base: base.into(), cow: cow.into(), memory: memory.into(), state, largest })
    }
}

fn read_only(path: &Path) -> Result<File, KeeperError> {
    File::open(path).map_err(KeeperError::file("open", path))
}

/// The memory base of this sandbox alone, given to its uid.
fn memory_file(path: &Path, bytes: u64, spec: &KeeperSpec) -> Result<File, KeeperError> {
    let cold = matches!(spec.machine.start, Start::Cold { .. });
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(cold).truncate(false).mode(0o600);
    let memory = options.open(path).map_err(KeeperError::file("open", path))?;
    if cold {
        memory.set_len(bytes).map_err(KeeperError::file("size", path))?;
    }
    has_length(&memory, bytes)?;
    fchown(&memory, Some(spec.jail.uid), Some(spec.jail.uid)).map_err(KeeperError::file("give away", path))?;
    Ok(memory)
}

/// The memory base that several sandboxes share: standard input.
fn sealed_memory(bytes: u64) -> Result<File, KeeperError> {
    let memory = std::io::stdin().as_fd().try_clone_to_owned();
    let memory = File::from(memory.map_err(KeeperError::step("take the shared memory base"))?);
    if !is_sealed(&memory) {
        return Err(KeeperError::Spec("standard input is no write-sealed memory file".into()));
    }
    has_length(&memory, bytes)?;
    Ok(memory)
}

fn has_length(memory: &File, bytes: u64) -> Result<(), KeeperError> {
    let length = memory.metadata().map_err(KeeperError::step("read the memory base"))?.len();
    if length == bytes {
        return Ok(());
    }
    Err(KeeperError::Spec(format!("the memory base has {length} bytes, the machine {bytes}")))
}

/// What a restore reads itself: its digests are known from the spec.
pub(super) fn restore(spec: &KeeperSpec) -> Result<Option<Restore>, KeeperError> {
    let Start::Restore { state, diff } = &spec.machine.start else { return Ok(None) };
    let open = |file: &Verified| Ok::<_, KeeperError>((read_only(&file.path)?, file.digest));
    Ok(Some(Restore { state: open(state)?, diff: diff.as_ref().map(open).transpose()?, state_fd: -1 }))
}
