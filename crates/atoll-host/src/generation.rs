//! The files of what is kept of a paused sandbox: `generations/<id>/{manifest.json,state,diff}` in its directory.
//!
//! How it works: a directory of a fresh name takes state and diff, then the signed manifest, each on disk before the next; the journal's
//! `Paused` makes it count. Everything that the journal does not name is left from a crash and is removed ([`tidy`]), and so
//! are memory bases that nothing is mapped from any more.
//!
//! Deliberately absent: the disk. It stays in its place: no VM writes to it while the sandbox is paused.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use atoll_domain::host::HostError;
use atoll_domain::snapshot::Manifest;
use atoll_keeper::client::DIFF_FILE;

use crate::Step;
use crate::data_dir::replace;
use crate::journal::Base;
use crate::signing::Signer;

const DIRECTORY: &str = "generations";
pub(crate) const MANIFEST: &str = "manifest.json";
/// The memory base of a cold boot: empty, so it is told apart from flat images of the sandbox's own.
pub(crate) const EMPTY_BASE: &str = "memory.raw";
/// Flat images of the sandbox's own begin so.
pub(crate) const BASE_PREFIX: &str = "base-";

/// A fresh name: 128 random bits.
pub(crate) fn fresh_id() -> Result<String, HostError> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|e| HostError::Failed(format!("no random bytes: {e}")))?;
    Ok(format!("{:032x}", u128::from_be_bytes(random)))
}

/// Whether it is such a name.
pub(crate) fn is_id(name: &str) -> bool {
    name.len() == 32 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The directory of a generation.
pub(crate) fn path(dir: &Path, id: &str) -> PathBuf {
    dir.join(DIRECTORY).join(id)
}

/// Makes the directory of a new one.
pub(crate) fn create(dir: &Path, id: &str) -> io::Result<PathBuf> {
    let path = path(dir, id);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
    File::open(dir.join(DIRECTORY))?.sync_all()?;
    File::open(dir)?.sync_all()?;
    Ok(path)
}

/// Writes the manifest; everything of the generation is on disk when this returns.
pub(crate) fn seal(path: &Path, manifest: &Manifest, signer: &Signer) -> io::Result<()> {
    Step::Manifest.before();
    replace(&path.join(MANIFEST), &signer.sign(manifest)?, 0o600)?;
    Step::Manifest.after();
    Ok(())
}

/// Reads and checks the manifest of a generation.
pub(crate) fn manifest(dir: &Path, id: &str, signer: &Signer) -> Result<Manifest, HostError> {
    let damaged = |why: String| HostError::Damaged(why);
    let manifest = signer.read(&path(dir, id).join(MANIFEST)).map_err(|error| damaged(error.to_string()))?;
    if manifest.id == id { Ok(manifest) } else { Err(damaged("the manifest is another generation's".into())) }
}

/// Removes every generation but one (with its diff or without), and every memory base of the sandbox's own but one.
pub(crate) fn tidy(dir: &Path, keep: Option<(&str, bool)>, base: Option<&Base>) -> io::Result<()> {
    let unneeded = unneeded(dir, keep, base)?;
    if unneeded.is_empty() {
        return Ok(());
    }
    Step::Tidy.before();
    for path in unneeded {
        if path.is_dir() {
            fs::remove_dir_all(path)?;
        } else {
            fs::remove_file(path)?;
        }
    }
    Step::Tidy.after();
    Ok(())
}

fn unneeded(dir: &Path, keep: Option<(&str, bool)>, base: Option<&Base>) -> io::Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    for entry in entries(&dir.join(DIRECTORY))? {
        match keep.filter(|(id, _)| entry.file_name() == *id) {
            None => out.push(entry.path()),
            Some((_, true)) => {}
            // It is part of the base by now.
            Some((_, false)) => out.extend(Some(entry.path().join(DIFF_FILE)).filter(|diff| diff.exists())),
        }
    }
    let kept = match base {
        Some(Base::Own { file, .. }) => Some(file.as_str()),
        Some(Base::Empty) => Some(EMPTY_BASE),
        Some(Base::Object { .. }) | None => None,
    };
    for entry in entries(dir)? {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let is_base = name == EMPTY_BASE || name.starts_with(BASE_PREFIX);
        if is_base && kept != Some(name) {
            out.push(entry.path());
        }
    }
    Ok(out)
}

fn entries(dir: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
