//! The sandbox's own disk, which may grow while the machine runs.
//!
//! How it works: a descriptor on its file system is taken at the start, before user code could
//! unmount anything; the kernel grows a mounted ext4 by an ioctl.
//!
//! Deliberately absent: shrinking.
#![expect(unsafe_code, reason = "ext4's ioctl has no safe wrapper")]

use std::{
    fs::{self, File},
    io,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    sync::Arc,
};

use nix::{
    sys::{stat, statvfs::fstatvfs},
    unistd::fsync,
};
use serde::Serialize;

use crate::error::AgentError;

/// A directory that lies on the disk itself and not on the overlay.
const PLACE: &str = "/var/lib/docker";
/// `_IOW('f', 16, u64)`: the new number of blocks.
const EXT4_IOC_RESIZE_FS: libc::Ioctl = 0x4008_6610;
/// What sysfs counts in.
const SECTOR: u64 = 512;

/// The disk, when this machine has one of its own.
#[derive(Clone)]
pub(crate) struct Disk(Option<Arc<File>>);

/// The size of the file system in bytes.
#[derive(Serialize)]
pub(crate) struct Grown {
    before: u64,
    after: u64,
}

impl Disk {
    pub(crate) fn of_machine() -> Self {
        Self(File::open(PLACE).ok().map(Arc::new))
    }

    /// Of an agent that is no machine's own.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// Grows the file system to the size that its device has now. It never shrinks.
    pub(crate) fn grow(&self) -> Result<Grown, AgentError> {
        let file =
            self.0.as_ref().ok_or_else(|| AgentError::Conflict("this machine has no disk that could grow".into()))?;
        let failed = |source| AgentError::io("growing the file system", source);
        let before = size(file).map_err(failed)?;
        resize(file).map_err(failed)?;
        Ok(Grown { before, after: size(file).map_err(failed)? })
    }
}

fn size(file: &File) -> io::Result<u64> {
    let found = fstatvfs(file)?;
    Ok(found.blocks() * found.fragment_size())
}

fn resize(file: &File) -> io::Result<()> {
    let device = file.metadata()?.dev();
    let (major, minor) = (stat::major(device), stat::minor(device));
    let sectors = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/size"))?;
    let sectors: u64 = sectors.trim().parse().map_err(io::Error::other)?;
    let blocks = sectors * SECTOR / fstatvfs(file)?.block_size();
    // SAFETY: the ioctl reads one u64, which lives until it returns.
    if unsafe { libc::ioctl(file.as_raw_fd(), EXT4_IOC_RESIZE_FS, &raw const blocks) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // The host may take a snapshot of the disk next.
    fsync(file)?;
    Ok(())
}
