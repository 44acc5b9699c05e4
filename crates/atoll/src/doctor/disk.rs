//! The file systems of data and cache: space, reflinks, the tools that images are built with.
//!
//! How it works: a directory that is not there yet is judged by its nearest parent that is.
//!
//! Deliberately absent: the images themselves (`atoll up` verifies them).

use std::path::{Path, PathBuf};

use super::{Finding, Subject};

/// A first image, a kernel and a few sandboxes.
const WANTED_MB: u64 = 10 * 1024;
const NEEDED_MB: u64 = 2 * 1024;
/// Program and Debian package.
const TOOLS: [(&str, &str); 3] = [("mmdebstrap", "mmdebstrap"), ("mke2fs", "e2fsprogs"), ("dpkg-deb", "dpkg")];

pub(super) fn examine(subject: &Subject) -> Vec<Finding> {
    let mut found = vec![
        space("space", "data", &subject.data),
        space("space", "cache", &subject.cache),
        reflink(&subject.data),
        tools(),
    ];
    found.extend(in_memory(&subject.data));
    found
}

/// A file system in memory: lost at a restart of the machine, and full when memory is.
fn in_memory(data: &Path) -> Option<Finding> {
    let dir = nearest(data);
    let stat = nix::sys::statfs::statfs(&dir).ok()?;
    (stat.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC).then(|| {
        let found =
            format!("{} is a tmpfs: VMs end when it is full, and everything with the machine's restart", dir.display());
        Finding::warn("space", found, "put the data directory on a disk")
    })
}

fn space(check: &'static str, of: &str, dir: &Path) -> Finding {
    let dir = nearest(dir);
    let Ok(stat) = nix::sys::statvfs::statvfs(&dir) else {
        return Finding::fail(
            check,
            format!("{of}: {} cannot be looked at", dir.display()),
            "check the path and its rights",
        );
    };
    let free_mb = stat.blocks_available().saturating_mul(stat.fragment_size()) >> 20;
    let found = format!("{of}: {} GiB free at {}", free_mb / 1024, dir.display());
    match free_mb {
        WANTED_MB.. => Finding::ok(check, found),
        NEEDED_MB.. => {
            Finding::warn(check, found, "10 GiB are comfortable: images take 0.5 GiB, each sandbox what it writes")
        }
        _ => Finding::fail(check, found, "free some, or name another directory with --data or --cache"),
    }
}

fn reflink(data: &Path) -> Finding {
    let dir = nearest(data);
    if atoll_disk::reflink_supported(&dir) {
        return Finding::ok("reflink", format!("copies in {} share their blocks", dir.display()));
    }
    let found = format!("{} cannot share blocks between files: copies of disks cost their data", dir.display());
    Finding::warn("reflink", found, "put the data directory on XFS or btrfs")
}

fn tools() -> Finding {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |tool: &str| std::env::split_paths(&path).any(|dir| dir.join(tool).is_file());
    let missing: Vec<&str> = TOOLS.iter().filter(|(tool, _)| !there(tool)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Finding::ok("images", "mmdebstrap, mke2fs and dpkg-deb are there");
    }
    Finding::fail(
        "images",
        format!("images cannot be built without {}", missing.join(", ")),
        format!("apt-get install {}", missing.join(" ")),
    )
}

/// The directory, or its nearest parent that exists.
fn nearest(dir: &Path) -> PathBuf {
    dir.ancestors().find(|parent| parent.is_dir()).unwrap_or(Path::new("/")).to_owned()
}
