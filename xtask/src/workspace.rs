//! Where the clone is, and where cargo puts what it builds.
//!
//! How it works: `CARGO_TARGET_DIR` wins; else `ATOLL_BUILD_CACHE` names a directory that outlives the clone; else
//! `/var/cache/atoll/build` (root) or `~/.cache/atoll/build`; an empty `ATOLL_BUILD_CACHE`, or a cache that cannot be made,
//! means the clone's own `target`. Clones share the dependencies; their own crates have the same names there, so they build one after
//! the other, and each anew after another. A cache that grew over its limit is emptied: what it holds can be built again.
//!
//! Deliberately absent: caching of images and kernels (atoll-disk has its own cache).

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

/// A cache larger than this is emptied (bytes).
const CACHE_LIMIT: u64 = 25 << 30;

/// The clone and its target directory.
#[derive(Debug)]
pub(crate) struct Workspace {
    /// The clone.
    pub(crate) root: PathBuf,
    /// Where cargo builds.
    pub(crate) target: PathBuf,
    /// The directory that other clones build in too, if it is one.
    cache: Option<PathBuf>,
}

impl Workspace {
    /// Finds the clone that this xtask belongs to.
    pub(crate) fn find() -> Result<Self> {
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest.parent().context("xtask lies in the workspace")?.to_owned();
        if let Some(target) = std::env::var_os("CARGO_TARGET_DIR").filter(|v| !v.is_empty()) {
            return Ok(Self { target: root.join(target), root, cache: None });
        }
        match usable_cache() {
            Some(cache) => Ok(Self { target: cache.join("target"), root, cache: Some(cache) }),
            None => Ok(Self { target: root.join("target"), root, cache: None }),
        }
    }

    /// `cargo`, in the clone, building into the target directory, with nothing to read from.
    pub(crate) fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(arguments).current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target);
        // Set by the `cargo run` that started us; a build must not see the difference.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
                command.env_remove(name);
            }
        }
        command.stdin(std::process::Stdio::null());
        command
    }

    /// Held by whoever builds: clones build there one after the other. The first build of a clone after another's makes its own files
    /// new, because cargo tells the crates of two clones apart by the times of their files alone.
    pub(crate) fn using(&self) -> Result<Option<File>> {
        let Some(cache) = &self.cache else { return Ok(None) };
        let file = lock_file(&cache.join("users"))?;
        file.lock().context("cannot lock the build cache")?;
        if allocated(&self.target) > CACHE_LIMIT {
            println!("{} is over {} GiB: emptied", self.target.display(), CACHE_LIMIT >> 30);
            fs::remove_dir_all(&self.target).context("cannot empty the build cache")?;
        }
        let (owner, own) = (cache.join("owner"), self.root.display().to_string());
        if fs::read_to_string(&owner).is_ok_and(|last| last == own) {
            return Ok(Some(file));
        }
        for part in ["crates", "fuzz", "proto", "xtask"] {
            renew(&self.root.join(part)).with_context(|| format!("cannot set the times of {part}"))?;
        }
        fs::write(&owner, own).context("cannot write into the build cache")?;
        Ok(Some(file))
    }

    /// Builds, and takes what was built out of the target directory, where clones share its name: the long build first, under
    /// cargo's own lock alone, then once more, fresh, with the name kept from others until it is taken.
    pub(crate) fn built(&self, build: impl Fn() -> Result<()>, take: impl FnOnce() -> Result<()>) -> Result<()> {
        build()?;
        let Some(cache) = &self.cache else { return take() };
        let file = lock_file(&cache.join("lock"))?;
        file.lock().context("cannot lock the build cache")?;
        build()?;
        take()
    }
}

/// Gives every file below a directory the time of now.
fn renew(dir: &Path) -> std::io::Result<()> {
    if !dir.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(dir)? {
        let (entry, now) = (entry?, std::time::SystemTime::now());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            renew(&entry.path())?;
        } else if kind.is_file() {
            File::options().append(true).open(entry.path())?.set_modified(now)?;
        }
    }
    Ok(())
}

fn lock_file(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("cannot create {}", path.display()))
}

/// The first cache that this user can write to.
fn usable_cache() -> Option<PathBuf> {
    let cache = match std::env::var_os("ATOLL_BUILD_CACHE") {
        Some(dir) if dir.is_empty() => return None,
        Some(dir) => PathBuf::from(dir),
        None if is_root() => PathBuf::from("/var/cache/atoll/build"),
        None => match std::env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()) {
            Some(base) => PathBuf::from(base).join("atoll/build"),
            None => PathBuf::from(std::env::var_os("HOME")?).join(".cache/atoll/build"),
        },
    };
    let cache = std::path::absolute(cache).ok()?;
    let made = fs::create_dir_all(&cache).and_then(|()| File::create(cache.join("lock")));
    match made {
        Ok(_) => Some(cache),
        Err(error) => {
            println!("no build cache in {} ({error}): building in the clone", cache.display());
            None
        }
    }
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    // The owner of /proc/self is the effective user.
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// Bytes allocated below a directory; what cannot be read counts nothing.
fn allocated(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => allocated(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    });
    sizes.sum()
}
