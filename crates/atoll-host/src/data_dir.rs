//! The data directory: who may use it, and the few files that belong to no sandbox.
//!
//! How it works: one lock file is held as long as an Atoll runs, so a second one on the same directory is refused by name, after a moment.
//! The instance's id is drawn once, and its address pool is kept beside it; a copy of the directory has the same id, so that is held as
//! well ([`crate::instance`]). The claim number, by which keepers know their newest owner, grows with each use and is written down before
//! it is used; it outlives Atoll and not the machine, as keepers do. A file is replaced as a whole or not at all; what a crash left half
//! written is cleared before this Atoll writes.
//!
//! Deliberately absent: the database and `admin.json` (the control plane's).

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use atoll_domain::InstanceId;
use atoll_net::{Pool, Slots};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::instance::{self, Held};
use crate::{StartError, Step, keepers};

/// How long the lock may be held by what is no Atoll any more: one that was killed while it started a program has a child that holds its
/// files until it becomes that program.
const LEAVING: Duration = Duration::from_secs(2);
const RETRY: Duration = Duration::from_millis(10);

/// Held as long as this Atoll uses the directory, and the id of its instance.
#[derive(Debug)]
pub struct Lock {
    _instance: Held,
    _file: Flock<File>,
}

/// Takes the lock, or gives the file back. Blocks for [`LEAVING`] at most.
pub(crate) fn lock_patiently(mut file: File) -> Result<Flock<File>, File> {
    let deadline = Instant::now() + LEAVING;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Ok(locked),
            Err((held, _)) if Instant::now() > deadline => return Err(held),
            Err((held, _)) => file = held,
        }
        std::thread::sleep(RETRY);
    }
}

#[derive(Serialize, Deserialize)]
struct InstanceFile {
    instance: InstanceId,
    /// The address pool that was chosen last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pool: Option<String>,
}

impl InstanceFile {
    const NAME: &str = "instance.json";

    fn parse(path: &Path, text: &[u8]) -> Result<Self, StartError> {
        serde_json::from_slice(text).map_err(|e| StartError::Malformed { path: path.to_owned(), why: e.to_string() })
    }

    fn write(&self, path: &Path) -> Result<(), StartError> {
        let text = serde_json::to_vec(self);
        let text = text.map_err(|e| StartError::Malformed { path: path.to_owned(), why: e.to_string() })?;
        replace(path, &text, 0o600).map_err(StartError::file("write", path))
    }
}

/// The address pool that the instance on a data directory chose last, and whether sandboxes are left that may have addresses of
/// it; none where no instance chose one.
pub fn chosen_pool(data: &Path) -> Option<(String, bool)> {
    let path = data.join(InstanceFile::NAME);
    let pool = InstanceFile::parse(&path, &fs::read(&path).ok()?).ok()?.pool?;
    Some((pool, has_entries(&data.join("sandboxes"))))
}

/// The id of the instance on a data directory; none where there is no instance.
pub(crate) fn instance_of(root: &Path) -> Result<Option<InstanceId>, StartError> {
    let path = root.join(InstanceFile::NAME);
    match fs::read(&path) {
        Ok(text) => InstanceFile::parse(&path, &text).map(|file| Some(file.instance)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(StartError::file("read", &path)(error)),
    }
}

fn has_entries(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

/// A data directory.
#[derive(Debug, Clone)]
pub struct DataDir {
    root: PathBuf,
    /// Held while a claim number is drawn: many sandboxes start, or are taken over, at once.
    claims: Arc<Mutex<()>>,
}

impl DataDir {
    /// Makes the directory if it is not there, takes its lock, and the id of its instance.
    ///
    /// # Errors
    /// Another user's directory, one in use, one whose id another one uses, or what the file system says.
    pub fn open(root: &Path) -> Result<(Self, Lock), StartError> {
        let own = nix::unistd::geteuid().as_raw();
        fs::create_dir_all(root).map_err(StartError::file("create", root))?;
        let owner = fs::metadata(root).map_err(StartError::file("read", root))?.uid();
        if owner != own {
            return Err(StartError::ForeignData { path: root.to_owned(), owner, own });
        }
        let known = ["lock", "instance.json"].iter().any(|name| root.join(name).exists());
        let empty = || fs::read_dir(root).is_ok_and(|mut entries| entries.next().is_none());
        if !known && !empty() {
            return Err(StartError::NotData { path: root.to_owned() });
        }
        let mode = fs::Permissions::from_mode(0o700);
        fs::set_permissions(root, mode).map_err(StartError::file("set the mode of", root))?;
        let dir = Self { root: root.to_owned(), claims: Arc::default() };
        let file = dir.lock()?;
        for sub in ["run", "sandboxes", "bin", "keys"] {
            let path = root.join(sub);
            fs::create_dir_all(&path).map_err(StartError::file("create", &path))?;
        }
        // Nobody writes here yet. What lies in a sandbox's directory is its journal's to mend.
        for path in [root.to_owned(), root.join("bin"), root.join("keys")] {
            clear_unfinished(&path).map_err(StartError::file("clear", &path))?;
        }
        let held = instance::hold(&Slots::of_machine(), &dir.instance()?, root)?;
        Ok((dir, Lock { _instance: held, _file: file }))
    }

    fn lock(&self) -> Result<Flock<File>, StartError> {
        let path = self.root.join("lock");
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(StartError::file("open", &path))?;
        let mut file = match lock_patiently(file) {
            Ok(locked) => locked,
            Err(mut file) => {
                let mut pid = String::new();
                // Without the number the refusal is still right.
                let _ = file.read_to_string(&mut pid);
                let pid = if pid.trim().is_empty() { "unknown".into() } else { pid.trim().to_owned() };
                return Err(StartError::InUse { path: self.root.clone(), pid });
            }
        };
        let text = format!("{}\n", std::process::id());
        file.set_len(0).and_then(|()| file.write_all(text.as_bytes())).map_err(StartError::file("write", &path))?;
        Ok(file)
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where all sandboxes are.
    pub fn sandboxes(&self) -> PathBuf {
        self.root.join("sandboxes")
    }

    /// The instance's id, drawn at the first start.
    ///
    /// # Errors
    /// When the file cannot be read, written or understood.
    pub fn instance(&self) -> Result<InstanceId, StartError> {
        if let Some(instance) = instance_of(&self.root)? {
            return Ok(instance);
        }
        let path = self.root.join(InstanceFile::NAME);
        let mut random = [0; 3];
        getrandom::fill(&mut random)
            .map_err(|e| StartError::file("draw an id for", &path)(std::io::Error::other(e)))?;
        let instance = InstanceId::from_random(random);
        InstanceFile { instance: instance.clone(), pool: None }.write(&path)?;
        Ok(instance)
    }

    /// The address pool: what was chosen before, as long as that may be; on disk when this returns.
    ///
    /// # Errors
    /// No pool is possible, or `instance.json` cannot be read or written.
    pub(crate) fn pool(&self, configured: Option<&str>) -> Result<Pool, StartError> {
        let path = self.root.join(InstanceFile::NAME);
        let text = fs::read(&path).map_err(StartError::file("read", &path))?;
        let mut file = InstanceFile::parse(&path, &text)?;
        let pool = atoll_net::keep_pool(file.pool.as_deref(), configured, has_entries(&self.sandboxes()))?;
        let text = pool.to_string();
        if configured.is_some_and(|configured| configured != text) {
            tracing::warn!(%pool, "sandboxes have addresses of the earlier pool; the configured one waits for their end");
        }
        if file.pool.as_ref() != Some(&text) {
            file.pool = Some(text);
            file.write(&path)?;
        }
        Ok(pool)
    }

    /// Draws the next claim number; greater than any that this directory gave out since the machine's restart.
    pub(crate) fn next_claim(&self) -> std::io::Result<u64> {
        // Nothing lies under this lock, so a panic leaves nothing broken.
        let _drawing = self.claims.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.root.join("claim");
        let last = match fs::read(&path) {
            // A power cut may leave anything of it, and ends every keeper that was claimed under it.
            Ok(text) => std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0_u64),
            Err(error) if error.kind() == ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        let next = last + 1;
        Step::ClaimNumber.before();
        put(&path, next.to_string().as_bytes(), 0o600)?;
        Step::ClaimNumber.after();
        Ok(next)
    }

    /// Writes the keeper's program, named by its digest; an old one stays as long as a keeper runs it.
    pub(crate) fn unpack_keeper(&self, program: &[u8]) -> Result<PathBuf, StartError> {
        let digest = blake3::hash(program).to_hex();
        let bin = self.root.join("bin");
        let path = bin.join(format!("{}{}", keepers::PROGRAM, &digest[..16]));
        if !fs::metadata(&path).is_ok_and(|meta| meta.len() == program.len() as u64) {
            replace(&path, program, 0o755).map_err(StartError::file("write", &path))?;
        }
        if let Err(error) = keepers::remove_unused(&bin, &path) {
            tracing::warn!(directory = %bin.display(), %error, "programs of older keepers could not be removed");
        }
        Ok(path)
    }
}

/// What a file is written under until it takes the place of the last.
const UNFINISHED: &str = "tmp";

/// Replaces a file as a whole, for readers of this boot of the machine.
pub(crate) fn put(path: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    let unfinished = write_beside(path, bytes, mode, |_| Ok(()))?;
    fs::rename(unfinished, path)
}

/// Replaces a file as a whole, on disk when this returns.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    let unfinished = write_beside(path, bytes, mode, File::sync_all)?;
    take_the_place(&unfinished, path)
}

/// The same as a step of its own: before it both files are there, after it one.
pub(crate) fn replace_as(step: Step, path: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    let unfinished = write_beside(path, bytes, mode, File::sync_all)?;
    step.before();
    take_the_place(&unfinished, path)?;
    step.after();
    Ok(())
}

/// Removes what an earlier Atoll was killed over before it took the place of anything.
pub(crate) fn clear_unfinished(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == UNFINISHED) && path.is_file() {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn write_beside(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    sync: fn(&File) -> std::io::Result<()>,
) -> std::io::Result<PathBuf> {
    let unfinished = path.with_extension(UNFINISHED);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&unfinished)?;
    file.write_all(bytes)?;
    sync(&file)?;
    Ok(unfinished)
}

fn take_the_place(unfinished: &Path, path: &Path) -> std::io::Result<()> {
    fs::rename(unfinished, path)?;
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_number_is_greater_than_the_last_and_a_file_that_cannot_be_read_is_no_number() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir { root: dir.path().to_owned(), claims: Arc::default() };
        let path = dir.path().join("claim");
        assert_eq!((data.next_claim().unwrap(), data.next_claim().unwrap()), (1, 2));
        fs::write(&path, [0, 0]).unwrap();
        assert_eq!(data.next_claim().unwrap(), 1, "what a power cut left");
        fs::remove_file(&path).unwrap();
        // It leads to itself.
        std::os::unix::fs::symlink("claim", &path).unwrap();
        assert!(data.next_claim().is_err());
    }
}
