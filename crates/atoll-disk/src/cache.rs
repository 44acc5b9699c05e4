//! The cache of artefacts that are dear to make.
//!
//! How it works: an artefact is a directory `<root>/<kind>/<key>/` whose `manifest.json` was written last; the key is a
//! digest of what it is made from. It is built in `<root>/<kind>/.tmp-<key>-<pid>` under a lock on
//! `<root>/locks/<kind>-<key>`, synced and renamed, so that an interrupted build never looks finished; what a dead build
//! left behind is swept by the next one under the same lock. An ordinary user's own cache comes first, then root's,
//! which is only read and trusted because root owns it.
//!
//! Deliberately absent: eviction.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::DiskError;

/// A file of which less than this part is allocated is not hashed.
const HOLLOW: u64 = 16;
/// Root's default cache.
const SYSTEM_CACHE: &str = "/var/cache/atoll";

/// What an artefact's directory says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The key, again.
    pub key: String,
    /// When it was finished, in seconds since 1970.
    pub built_at: u64,
    /// Free text about the contents, such as a kernel's version.
    pub about: String,
    /// Each file with its length and BLAKE3.
    pub files: BTreeMap<String, FileEntry>,
}

/// One file of an artefact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 of the contents, as hex. Empty for a file that is nearly all holes, such as an empty disk of a terabyte:
    /// hashing it would take minutes, and it is made anew in milliseconds.
    pub blake3: String,
}

/// Where artefacts are.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
    system: Option<PathBuf>,
}

impl Cache {
    /// The cache to be used: `explicit`, else root's, else the user's own with root's behind it.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn discover(explicit: Option<&Path>, home: Option<&Path>, xdg_cache: Option<&Path>) -> Result<Self, DiskError> {
        let system = Path::new(SYSTEM_CACHE);
        let (root, behind) = match explicit {
            Some(dir) => (dir.to_owned(), None),
            None if nix::unistd::geteuid().is_root() => (system.to_owned(), None),
            None => {
                let base = xdg_cache.map(Path::to_owned).or_else(|| Some(home?.join(".cache")));
                let base =
                    base.ok_or_else(|| DiskError::Missing("no cache directory: set ATOLL_CACHE or HOME".into()))?;
                (base.join("atoll"), Some(system.to_owned()))
            }
        };
        Self::open(&root, behind)
    }

    /// A cache in one directory, with another that is only read.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub fn open(root: &Path, system: Option<PathBuf>) -> Result<Self, DiskError> {
        let root = std::path::absolute(root).map_err(DiskError::file("find", root))?;
        make_dir(&root)?;
        let locks = root.join("locks");
        make_dir(&locks)?;
        // Closed to others: whoever can open a lock file can hold its lock. Fails in another's cache, where none is taken.
        let _ = fs::set_permissions(&locks, fs::Permissions::from_mode(0o700));
        let trusted =
            |dir: &PathBuf| fs::metadata(dir).is_ok_and(|m| m.uid() == 0 && m.permissions().mode() & 0o022 == 0);
        Ok(Self { root, system: system.filter(trusted) })
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A finished artefact, if there is one.
    pub fn find(&self, kind: &str, key: &str) -> Option<(PathBuf, Manifest)> {
        [Some(&self.root), self.system.as_ref()].into_iter().flatten().find_map(|root| {
            let dir = root.join(kind).join(key);
            let manifest = read_manifest(&dir, key)?;
            Some((dir, manifest))
        })
    }

    /// All finished artefacts of a kind, the newest first.
    pub fn list(&self, kind: &str) -> Vec<(PathBuf, Manifest)> {
        let mut found = Vec::new();
        for root in [Some(&self.root), self.system.as_ref()].into_iter().flatten() {
            let Ok(entries) = fs::read_dir(root.join(kind)) else { continue };
            for entry in entries.flatten() {
                let Ok(key) = entry.file_name().into_string() else { continue };
                if let Some(manifest) = read_manifest(&entry.path(), &key) {
                    found.push((entry.path(), manifest));
                }
            }
        }
        found.sort_by_key(|(_, manifest)| std::cmp::Reverse(manifest.built_at));
        found
    }

    /// The artefact, built by `build` if it is not there. `build` fills the directory that it is given and answers
    /// what the artefact is, for people.
    ///
    /// # Errors
    /// What `build` says, or what the file system says.
    pub fn ensure(
        &self,
        kind: &str,
        key: &str,
        build: impl FnOnce(&Path) -> Result<String, DiskError>,
    ) -> Result<(PathBuf, Manifest), DiskError> {
        if let Some(found) = self.find(kind, key) {
            return Ok(found);
        }
        let _lock = self.lock(kind, key)?;
        if let Some(found) = self.find(kind, key) {
            return Ok(found);
        }
        let parent = self.root.join(kind);
        make_dir(&parent)?;
        sweep(&parent, key)?;
        let temporary = parent.join(format!(".tmp-{key}-{}", std::process::id()));
        make_dir(&temporary)?;
        let finished = parent.join(key);
        let built = build(&temporary).and_then(|about| finish(&temporary, &finished, key, about));
        if built.is_err() {
            // The build's own error counts; what is left is swept by the next build.
            let _ = fs::remove_dir_all(&temporary);
        }
        let manifest = built?;
        Ok((finished, manifest))
    }

    /// Waits for the lock of an artefact; it is given back when dropped or when this process dies.
    fn lock(&self, kind: &str, key: &str) -> Result<Flock<File>, DiskError> {
        let path = self.root.join("locks").join(format!("{kind}-{key}"));
        let file = File::create(&path).map_err(DiskError::file("create", &path))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| DiskError::file("lock", &path)(errno.into()))
    }
}

/// Reads a finished artefact's manifest; nothing when it is not finished or a file's length differs.
fn read_manifest(dir: &Path, key: &str) -> Option<Manifest> {
    let manifest: Manifest = serde_json::from_slice(&fs::read(dir.join("manifest.json")).ok()?).ok()?;
    let whole = manifest.key == key
        && manifest
            .files
            .iter()
            .all(|(name, entry)| fs::metadata(dir.join(name)).is_ok_and(|m| m.is_file() && m.len() == entry.bytes));
    whole.then_some(manifest)
}

fn finish(temporary: &Path, finished: &Path, key: &str, about: String) -> Result<Manifest, DiskError> {
    let mut files = BTreeMap::new();
    collect(temporary, Path::new(""), &mut files)?;
    let built_at = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let built_at = built_at.map(|d| d.as_secs()).unwrap_or_default();
    let manifest = Manifest { key: key.to_owned(), built_at, about, files };
    let path = temporary.join("manifest.json");
    let text = serde_json::to_vec_pretty(&manifest)
        .map_err(|e| DiskError::Malformed { what: "manifest".into(), why: e.to_string() })?;
    fs::write(&path, text).map_err(DiskError::file("write", &path))?;
    sync(&path)?;
    sync(temporary)?;
    if finished.exists() {
        // Found unusable above (a file is missing or cut short), so it is replaced.
        fs::remove_dir_all(finished).map_err(DiskError::file("remove", finished))?;
    }
    fs::rename(temporary, finished).map_err(DiskError::file("rename", temporary))?;
    if let Some(parent) = finished.parent() {
        sync(parent)?;
    }
    Ok(manifest)
}

/// Hashes and syncs every file below `base`.
fn collect(base: &Path, below: &Path, files: &mut BTreeMap<String, FileEntry>) -> Result<(), DiskError> {
    let dir = base.join(below);
    for entry in fs::read_dir(&dir).map_err(DiskError::file("read", &dir))? {
        let entry = entry.map_err(DiskError::file("read", &dir))?;
        let name = below.join(entry.file_name());
        let kind = entry.file_type().map_err(DiskError::file("read", entry.path()))?;
        if kind.is_dir() {
            collect(base, &name, files)?;
        } else if kind.is_file() {
            let path = entry.path();
            files.insert(name.to_string_lossy().into_owned(), describe(&path)?);
        }
    }
    Ok(())
}

/// Length and digest of a file that is on disk when this returns.
fn describe(path: &Path) -> Result<FileEntry, DiskError> {
    let file = File::open(path).map_err(DiskError::file("read", path))?;
    file.sync_all().map_err(DiskError::file("sync", path))?;
    let meta = file.metadata().map_err(DiskError::file("read", path))?;
    let hollow = meta.blocks() * 512 < meta.len() / HOLLOW;
    let mut hasher = blake3::Hasher::new();
    if !hollow {
        hasher.update_reader(&file).map_err(DiskError::file("read", path))?;
    }
    let blake3 = if hollow { String::new() } else { hasher.finalize().to_hex().to_string() };
    Ok(FileEntry { bytes: meta.len(), blake3 })
}

/// Removes what dead builds of this key left behind; the caller holds its lock, so none is alive.
fn sweep(parent: &Path, key: &str) -> Result<(), DiskError> {
    let prefix = format!(".tmp-{key}-");
    for entry in fs::read_dir(parent).map_err(DiskError::file("read", parent))?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            fs::remove_dir_all(entry.path()).map_err(DiskError::file("remove", entry.path()))?;
        }
    }
    Ok(())
}

/// A directory that everybody can read and only its owner can write.
pub(crate) fn make_dir(path: &Path) -> Result<(), DiskError> {
    fs::create_dir_all(path).map_err(DiskError::file("create", path))?;
    let meta = fs::metadata(path).map_err(DiskError::file("read", path))?;
    if meta.uid() == nix::unistd::geteuid().as_raw() && meta.permissions().mode() & 0o777 != 0o755 {
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(path, mode).map_err(DiskError::file("set the mode of", path))?;
    }
    Ok(())
}

fn sync(path: &Path) -> Result<(), DiskError> {
    let file = File::open(path).map_err(DiskError::file("open", path))?;
    file.sync_all().map_err(DiskError::file("sync", path))
}
