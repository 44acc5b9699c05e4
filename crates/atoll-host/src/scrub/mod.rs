//! Reading again, whole, what is kept.
//!
//! How it works: the manifest of every object and of every paused sandbox is checked, and each file that it names is read past the
//! page cache and compared with its digest: device state, memory, disk, and the image and kernel that they rest on. Nothing is
//! locked meanwhile. A damage counts only if ledger or journal still say afterwards what they said before; else the thing was
//! removed, resumed or flattened while it was read, and a sandbox is looked at again. A stop of Atoll ends it within a piece.
//!
//! Deliberately absent: mending, and the disks of sandboxes: a guest writes to them, so nothing says what they must hold.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use atoll_disk::{DiskError, disk_digest_while};
use atoll_domain::SandboxId;
use atoll_domain::host::HostError;
use atoll_domain::objects::ObjectId;
use atoll_domain::scrub::{Damage, DamageKind, ObjectPart, Scrubbed, harmed};
use atoll_domain::snapshot::{Digest, Manifest, Part};
use atoll_keeper::KeeperError;
use atoll_keeper::client::DIFF_FILE;
use atoll_keeper::memory::diff::Reader;
use atoll_keeper::memory::{Digest as KeeperDigest, digest_of_while};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use tokio_util::sync::CancellationToken;

use crate::HostAgent;
use crate::error::{chain, join_failed};
use crate::generation::{self, MANIFEST};
use crate::history::History;
use crate::journal::{Base, Kept, Sources};
use crate::objects::{DISK, MEMORY, Objects, SOURCES, STATE};
use crate::signing::Signer;

/// How often a sandbox that changes while it is read is looked at; then it is plainly alive.
const LOOKS: u8 = 3;

impl HostAgent {
    /// Reads everything again that is kept; a second one waits for the first.
    ///
    /// # Errors
    /// A directory that cannot be read, or Atoll's stop.
    pub async fn scrub(&self) -> Result<Scrubbed, HostError> {
        let shared = Arc::clone(&self.shared);
        let scrub = self.tasks.spawn(async move {
            let turn = shared.stopping.run_until_cancelled(shared.scrubs.acquire()).await;
            let _turn = turn.and_then(Result::ok).ok_or(Stopped)?;
            let worker = Arc::clone(&shared);
            let work = move || {
                let (sandboxes, objects) = (worker.data.sandboxes(), &worker.objects);
                Scrub::new(objects, &worker.signer, &sandboxes, &worker.stopping).run()
            };
            tokio::task::spawn_blocking(work).await.map_err(join_failed)?
        });
        scrub.await.map_err(join_failed)?
    }
}

/// Atoll stops.
#[derive(Debug, Clone, Copy)]
struct Stopped;

impl From<Stopped> for HostError {
    fn from(_: Stopped) -> Self {
        crate::error::stopping()
    }
}

/// What is wrong with a file, if anything is.
type Looked = Result<Option<String>, Stopped>;

/// What a journal says of a sandbox that is to be read.
#[derive(Debug, PartialEq)]
struct Facts {
    sources: Sources,
    /// Of a paused one, if its memory is kept.
    kept: Option<Kept>,
}

struct Scrub<'a> {
    objects: &'a Objects,
    signer: &'a Signer,
    sandboxes: &'a Path,
    stopping: &'a CancellationToken,
    done: Scrubbed,
    /// Images and kernels that were read: many things rest on one.
    origins: HashMap<(PathBuf, Digest), Option<String>>,
}

impl<'a> Scrub<'a> {
    fn new(objects: &'a Objects, signer: &'a Signer, sandboxes: &'a Path, stopping: &'a CancellationToken) -> Self {
        Self { objects, signer, sandboxes, stopping, done: Scrubbed::default(), origins: HashMap::new() }
    }

    fn run(mut self) -> Result<Scrubbed, HostError> {
        for id in self.objects.there() {
            self.object(&id)?;
        }
        let listed = std::fs::read_dir(self.sandboxes).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        for entry in listed.map_err(|e| crate::error::failed(&e))? {
            let id = entry.file_name().to_str().and_then(|name| name.parse::<SandboxId>().ok());
            if let Some(id) = id {
                self.sandbox(&id, &entry.path())?;
            }
        }
        self.done.damaged.sort();
        self.done.damaged.dedup();
        Ok(self.done)
    }

    /// Reads an object and names whom its damages harm.
    fn object(&mut self, id: &ObjectId) -> Result<(), Stopped> {
        let path = self.objects.path(id);
        let mut found = Vec::new();
        match self.read_manifest(&path, &id.0) {
            Err(reason) => found.push((ObjectPart::Memory, reason)),
            Ok(manifest) => {
                let parts = manifest.parts;
                let memory = self.plain(&path.join(MEMORY), MEMORY, parts.memory_base)?;
                found.extend(memory.map(|reason| (ObjectPart::Memory, reason)));
                let state = self.plain(&path.join(STATE), STATE, parts.state)?;
                let disk = self.disk(&path.join(DISK), DISK, parts.disk.map(|part| part.digest))?;
                let sources = self.object_sources(id, &path, &manifest)?;
                let beginning = state.into_iter().chain(disk).chain(sources);
                found.extend(beginning.map(|reason| (ObjectPart::Beginning, reason)));
            }
        }
        if found.is_empty() {
            return Ok(());
        }
        // Those who rest on it now: what was removed meanwhile has nobody.
        let holders = self.objects.holders_of(id);
        for (part, reason) in found {
            let named = holders.iter().filter_map(|holder| harmed(part, holder));
            self.done.damaged.extend(named.map(|(kind, id)| Damage { kind, id, reason: reason.clone() }));
        }
        Ok(())
    }

    fn object_sources(&mut self, id: &ObjectId, path: &Path, manifest: &Manifest) -> Result<Vec<String>, Stopped> {
        let wrong = |why: &dyn std::fmt::Display| Ok(vec![format!("{SOURCES}: {why}")]);
        let text = match std::fs::read(path.join(SOURCES)) {
            Ok(text) => text,
            Err(error) => return wrong(&error),
        };
        self.note(text.len() as u64);
        match serde_json::from_slice::<Sources>(&text) {
            Err(_) => wrong(&"it is malformed"),
            Ok(sources) if sources.origin != manifest.origin || sources.base != (Base::Object { id: id.clone() }) => {
                wrong(&"it does not say what the manifest does")
            }
            Ok(sources) => self.origin(&sources, path),
        }
    }

    /// Reads a sandbox that is paused, or runs on a memory image of its own.
    fn sandbox(&mut self, id: &SandboxId, dir: &Path) -> Result<(), Stopped> {
        for _ in 0..LOOKS {
            let Some(before) = facts(dir) else { return Ok(()) };
            let found = self.look(dir, &before)?;
            if found.is_empty() {
                return Ok(());
            }
            if facts(dir).as_ref() == Some(&before) {
                let damage = |reason| Damage { kind: DamageKind::Sandbox, id: id.to_string(), reason };
                self.done.damaged.extend(found.into_iter().map(damage));
                return Ok(());
            }
        }
        Ok(())
    }

    fn look(&mut self, dir: &Path, facts: &Facts) -> Result<Vec<String>, Stopped> {
        let mut found = self.origin(&facts.sources, dir)?;
        if let Base::Own { file, digest, .. } = &facts.sources.base {
            found.extend(self.whole(&dir.join(file), file, digest)?);
        }
        let Some((kept, id)) = facts.kept.as_ref().and_then(|kept| Some((kept, kept.paused.generation.as_ref()?)))
        else {
            return Ok(found);
        };
        let path = generation::path(dir, id);
        match self.read_manifest(&path, id) {
            Err(reason) => found.push(reason),
            Ok(manifest) => {
                found.extend(self.plain(&path.join(STATE), STATE, manifest.parts.state)?);
                if kept.diff {
                    let memory = u64::from(manifest.shape.memory_mb) << 20;
                    found.extend(self.diff(&path.join(DIFF_FILE), memory, manifest.parts.memory_diff)?);
                }
            }
        }
        Ok(found)
    }

    /// Image, kernel and initramfs that something rests on; those of its owner's lie in its own directory and were digested as disks.
    fn origin(&mut self, sources: &Sources, dir: &Path) -> Result<Vec<String>, Stopped> {
        let mut found = Vec::new();
        let (image, kernel) = (&sources.image, &sources.kernel);
        for (name, path, digest) in
            [("the base image", image, sources.origin.base), ("the kernel", kernel, sources.origin.kernel)]
        {
            let known = (path.clone(), digest);
            if let Some(looked) = self.origins.get(&known) {
                found.extend(looked.clone());
                continue;
            }
            let own = path.starts_with(dir);
            let looked = if own { self.disk(path, name, Some(digest))? } else { self.whole(path, name, &digest)? };
            found.extend(looked.clone());
            if !own {
                self.origins.insert(known, looked);
            }
        }
        if !sources.initrd.exists() {
            found.push("the initramfs: it is not there".into());
        }
        Ok(found)
    }

    fn read_manifest(&mut self, path: &Path, id: &str) -> Result<Manifest, String> {
        let path = path.join(MANIFEST);
        let manifest = self.signer.read(&path).map_err(|error| format!("{MANIFEST}: {}", chain(&error)))?;
        self.note(std::fs::metadata(&path).map_or(0, |meta| meta.len()));
        if manifest.id == id { Ok(manifest) } else { Err(format!("{MANIFEST}: it is another's")) }
    }

    fn plain(&mut self, path: &Path, name: &str, part: Option<Part>) -> Looked {
        match part {
            Some(part) => self.whole(path, name, &part.digest),
            None => Ok(Some(format!("{MANIFEST}: it names no {name}"))),
        }
    }

    fn whole(&mut self, path: &Path, name: &str, expected: &Digest) -> Looked {
        let go_on = || !self.stopping.is_cancelled();
        let read = open(path).and_then(|file| digest_of_while(&file, &go_on));
        match read {
            Ok((digest, bytes)) => {
                self.note(bytes);
                Ok(differs(name, digest.0 != expected.0))
            }
            Err(error) => broken(name, &error),
        }
    }

    fn disk(&mut self, path: &Path, name: &str, expected: Option<Digest>) -> Looked {
        let Some(expected) = expected else { return Ok(Some(format!("{MANIFEST}: it names no {name}"))) };
        let go_on = || !self.stopping.is_cancelled();
        if let Err(error) = open(path) {
            return broken(name, &error);
        }
        match disk_digest_while(path, &go_on) {
            Ok((digest, bytes)) => {
                self.note(bytes);
                Ok(differs(name, digest != expected.0))
            }
            Err(DiskError::Cancelled) => Err(Stopped),
            // The path in its text is a host's.
            Err(DiskError::File { source, .. }) => Ok(Some(format!("{name}: {source}"))),
            Err(error) => Ok(Some(format!("{name}: {error}"))),
        }
    }

    fn diff(&mut self, path: &Path, memory: u64, part: Option<Part>) -> Looked {
        let Some(part) = part else { return Ok(Some(format!("{MANIFEST}: it names no {DIFF_FILE}"))) };
        let go_on = |_, _: atoll_keeper::memory::diff::Piece<'_>| {
            if self.stopping.is_cancelled() { Err(KeeperError::CalledOff) } else { Ok(()) }
        };
        let read = open(path).and_then(|file| {
            Reader::open(&file, memory)?.stream(Some(KeeperDigest(part.digest.0)), go_on)?;
            file.metadata().map(|meta| meta.len()).map_err(KeeperError::step("read its length"))
        });
        match read {
            Ok(bytes) => {
                self.note(bytes);
                Ok(None)
            }
            Err(KeeperError::Digest { .. }) => Ok(differs(DIFF_FILE, true)),
            Err(error) => broken(DIFF_FILE, &error),
        }
    }

    fn note(&mut self, bytes: u64) {
        self.done.files += 1;
        self.done.bytes += bytes;
    }
}

/// What is to be read of a sandbox; nothing of one that ends, or that a newer Atoll wrote.
fn facts(dir: &Path) -> Option<Facts> {
    let history = History::read(dir).ok()?;
    if history.foreign || history.tombstone().is_some() {
        return None;
    }
    let paused = history.paused();
    let kept = paused.clone().filter(|kept| kept.paused.generation.is_some());
    let sources = match (&kept, paused) {
        (Some(kept), _) => kept.sources.clone(),
        // Its disk alone is kept: there is no memory any more.
        (None, Some(kept)) => Sources { base: Base::Empty, ..kept.sources },
        (None, None) => history.sources()?.clone(),
    };
    Some(Facts { sources, kept })
}

/// Opens a file so that the disk is read, and not what the kernel remembers of it.
fn open(path: &Path) -> Result<File, KeeperError> {
    let file = File::open(path).map_err(KeeperError::step("open it"))?;
    // Where the kernel will not forget, it is read as it remembers it.
    let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    Ok(file)
}

fn differs(name: &str, differs: bool) -> Option<String> {
    differs.then(|| format!("{name}: it does not hold what it must"))
}

fn broken(name: &str, error: &KeeperError) -> Looked {
    match error {
        KeeperError::CalledOff => Err(Stopped),
        error => Ok(Some(format!("{name}: {}", chain(error)))),
    }
}

#[cfg(test)]
mod tests;
