//! The files that a VM is started from, looked for before anything is made for it.
//!
//! How it works: images, kernels and initramfs lie in the cache, for all sandboxes of the machine, and can be removed there while paused
//! sandboxes and templates rest on them; those that an owner brought lie in the sandbox's directory. What is missing is named by
//! its path below either: keeper and VMM would only say that they ended.
//!
//! Deliberately absent: what they hold. The cache knows them by that, a scrub reads them, and a start does not wait for it.

use std::fs;
use std::io;
use std::path::Path;

use atoll_domain::host::HostError;

use crate::error::failed;
use crate::journal::Sources;

/// What a VM is made by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// Its kernel.
    Boot,
    /// Memory and device state, which hold what the kernel was.
    Restore,
}

/// Where such files are, and what people call it.
pub(crate) type Places<'a> = [(&'a str, &'a Path); 2];

/// They are there, as far as they are needed. Blocks for a few file system calls.
///
/// # Errors
/// What is missing, as damage: whatever was kept cannot be started without it.
pub(crate) fn there(sources: &Sources, by: By, places: &Places<'_>) -> Result<(), HostError> {
    let image = ("the base image", &sources.image);
    let boot = [("the kernel", &sources.kernel), ("the initramfs", &sources.initrd)];
    let boot = boot.into_iter().filter(|_| by == By::Boot);
    for (what, path) in std::iter::once(image).chain(boot) {
        match fs::metadata(path) {
            Ok(found) if found.is_file() => {}
            Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(failed(&error));
            }
            Ok(_) | Err(_) => return Err(HostError::Damaged(missing(what, path, places))),
        }
    }
    Ok(())
}

/// The rest of its path is the operator's, and whoever asked may be somebody else.
fn missing(what: &str, path: &Path, places: &Places<'_>) -> String {
    let found = places.iter().find_map(|(place, root)| Some((place, path.strip_prefix(root).ok()?)));
    match found {
        Some((place, below)) => format!("{what} is missing: {} in {place}", below.display()),
        None => format!("{what} is missing: {}", path.file_name().unwrap_or_default().to_string_lossy()),
    }
}

#[cfg(test)]
mod tests {
    use atoll_domain::snapshot::{Digest, Origin};

    use super::*;
    use crate::journal::Base;

    #[test]
    fn what_is_missing_is_named_and_only_what_is_needed_is_looked_for() {
        let dir = tempfile::tempdir().unwrap();
        let (cache, own) = (dir.path().join("cache"), dir.path().join("own"));
        for name in ["image/1", "kernel/2", "initramfs/3"] {
            fs::create_dir_all(cache.join(name)).unwrap();
        }
        fs::create_dir(&own).unwrap();
        let digest = Digest([0; 32]);
        let sources = Sources {
            image: own.join("own-rootfs.ext4"),
            kernel: cache.join("kernel/2/vmlinux"),
            initrd: cache.join("initramfs/3/initramfs"),
            base: Base::Empty,
            origin: Origin { kernel: digest, base: digest, agent: digest, agent_version: "1".into() },
        };
        for path in [&sources.image, &sources.kernel, &sources.initrd] {
            fs::write(path, "").unwrap();
        }
        let places = [("the cache", cache.as_path()), ("the sandbox's directory", own.as_path())];
        let look = |by| there(&sources, by, &places);
        assert_eq!((look(By::Boot), look(By::Restore)), (Ok(()), Ok(())));
        fs::remove_dir_all(cache.join("kernel")).unwrap();
        let damaged = |why: &str| Err(HostError::Damaged(why.into()));
        assert_eq!(look(By::Boot), damaged("the kernel is missing: kernel/2/vmlinux in the cache"));
        assert_eq!(look(By::Restore), Ok(()), "memory holds it");
        fs::remove_file(&sources.image).unwrap();
        let own = damaged("the base image is missing: own-rootfs.ext4 in the sandbox's directory");
        assert_eq!((look(By::Boot), look(By::Restore)), (own.clone(), own));
        let elsewhere = there(&sources, By::Restore, &[("a", Path::new("/a")), ("b", Path::new("/b"))]);
        assert_eq!(elsewhere, damaged("the base image is missing: own-rootfs.ext4"), "no path of this host's is told");
    }
}
