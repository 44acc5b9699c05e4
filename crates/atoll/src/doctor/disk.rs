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
    let (data, cache) = (nearest(&subject.data), nearest(&subject.cache));
    let mut found = vec![
        space("data", &data, free_mb(&data)),
        space("cache", &cache, free_mb(&cache)),
        reflink(&data, atoll_disk::reflink_supported(&data)),
        tools(&missing_tools()),
    ];
    let kind = nix::sys::statfs::statfs(&data).map(|stat| stat.filesystem_type());
    found.extend(in_memory(&data, kind == Ok(nix::sys::statfs::TMPFS_MAGIC)));
    found
}

/// A file system in memory: lost at a restart of the machine, and full when memory is.
fn in_memory(dir: &Path, is_tmpfs: bool) -> Option<Finding> {
    is_tmpfs.then(|| {
        let found =
            format!("{} is a tmpfs: VMs end when it is full, and everything with the machine's restart", dir.display());
        Finding::warn("space", found, "put the data directory on a disk")
    })
}

/// What others than root may still write there.
fn free_mb(dir: &Path) -> Option<u64> {
    let stat = nix::sys::statvfs::statvfs(dir).ok()?;
    Some(stat.blocks_available().saturating_mul(stat.fragment_size()) >> 20)
}

fn space(of: &str, dir: &Path, free_mb: Option<u64>) -> Finding {
    let Some(free_mb) = free_mb else {
        return Finding::fail(
            "space",
            format!("{of}: {} cannot be looked at", dir.display()),
            "check the path and its rights",
        );
    };
    let found = format!("{of}: {} GiB free at {}", free_mb / 1024, dir.display());
    match free_mb {
        WANTED_MB.. => Finding::ok("space", found),
        NEEDED_MB.. => {
            Finding::warn("space", found, "10 GiB are comfortable: images take 0.5 GiB, each sandbox what it writes")
        }
        _ => Finding::fail("space", found, "free some, or name another directory with --data or --cache"),
    }
}

fn reflink(dir: &Path, supported: bool) -> Finding {
    if supported {
        return Finding::ok("reflink", format!("copies in {} share their blocks", dir.display()));
    }
    let found = format!("{} cannot share blocks between files: copies of disks cost their data", dir.display());
    Finding::warn("reflink", found, "put the data directory on XFS or btrfs")
}

/// The packages of the tools that are not there.
fn missing_tools() -> Vec<&'static str> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |tool: &str| std::env::split_paths(&path).any(|dir| dir.join(tool).is_file());
    TOOLS.iter().filter(|(tool, _)| !there(tool)).map(|(_, package)| *package).collect()
}

fn tools(missing: &[&str]) -> Finding {
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

#[cfg(test)]
mod tests {
    use super::super::{Level, judged};
    use super::*;

    #[test]
    fn too_little_room_is_told_and_none_at_all_fails() {
        let at = |free| space("data", Path::new("/srv/atoll"), free);
        judged(&at(Some(10 * 1024)), Level::Ok, "");
        judged(&at(Some(10 * 1024 - 1)), Level::Warn, "10 GiB");
        judged(&at(Some(2 * 1024)), Level::Warn, "10 GiB");
        judged(&at(Some(2 * 1024 - 1)), Level::Fail, "--data");
        judged(&at(Some(0)), Level::Fail, "--data");
        judged(&at(None), Level::Fail, "rights");
        assert_eq!(at(Some(5000)).found, "data: 4 GiB free at /srv/atoll");
    }

    #[test]
    fn a_file_system_that_costs_is_named_with_a_better_one() {
        let dir = Path::new("/srv/atoll");
        judged(&reflink(dir, true), Level::Ok, "");
        judged(&reflink(dir, false), Level::Warn, "XFS or btrfs");
        assert_eq!(in_memory(dir, false), None);
        judged(&in_memory(dir, true).unwrap(), Level::Warn, "on a disk");
    }

    #[test]
    fn tools_that_are_missing_are_named_by_their_packages() {
        judged(&tools(&[]), Level::Ok, "");
        judged(&tools(&["mmdebstrap", "e2fsprogs"]), Level::Fail, "apt-get install mmdebstrap e2fsprogs");
    }

    #[test]
    fn a_directory_that_is_not_there_yet_is_judged_by_its_parent() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(nearest(&dir.path().join("not/there/yet")), dir.path());
        assert!(free_mb(dir.path()).is_some());
        assert_eq!(free_mb(&dir.path().join("not")), None);
    }
}
