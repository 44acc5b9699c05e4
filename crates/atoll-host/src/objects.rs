//! The immutable files that several sandboxes rest on: `objects/<id>/` in the data directory.
//!
//! How it works: an object is a whole snapshot (signed manifest, device state, flat memory image, disk) that nobody writes to again.
//! `atoll_domain::objects` says who rests on it; what happens is a line in `objects/journal`, on disk before the step. Without
//! that journal nobody knows who rests on what is there, so then Atoll does not start. Memory images are mapped by many VMs at once
//! ([`crate::sealed`]). Files that cannot be removed are told to whoever let go of them last, each time again, and are in nobody
//! else's way, nor in that of a start.
//!
//! Deliberately absent: who drops what when (the actors, goldens and templates).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atoll_domain::host::HostError;
use atoll_domain::objects::{Entry, Holder, Ledger, ObjectId};
use atoll_domain::snapshot::{Digest, Manifest, Part};

use crate::StartError;
use crate::Step;
use crate::error::{failed, join_failed};
use crate::generation::{self, MANIFEST};
use crate::journal::{append, open_whole};
use crate::sealed::Sealed;
use crate::signing::Signer;

/// The names of an object's files.
pub(crate) const STATE: &str = "state";
pub(crate) const MEMORY: &str = "memory.raw";
pub(crate) const DISK: &str = "disk.raw";
/// What its VM was started from: paths of this host, for a VM that is started from the object.
pub(crate) const SOURCES: &str = "sources.json";

const JOURNAL: &str = "journal";

#[derive(Debug)]
struct Book {
    ledger: Ledger,
    journal: File,
}

/// All objects of an instance.
#[derive(Debug)]
pub(crate) struct Objects {
    root: PathBuf,
    signer: Arc<Signer>,
    book: Mutex<Book>,
    /// Memory images that are loaded.
    sealed: Sealed,
}

impl Objects {
    /// Reads the journal and removes what nobody rests on; `lives` says which holders still do.
    ///
    /// # Errors
    /// What the file system says, or objects without a journal: then nothing is touched.
    pub(crate) fn open(data: &Path, signer: Arc<Signer>, lives: impl Fn(&Holder) -> bool) -> Result<Self, StartError> {
        let root = data.join("objects");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&root).map_err(StartError::file("create", &root))?;
        let path = root.join(JOURNAL);
        let entries = read(&path).map_err(StartError::file("read", &path))?;
        if entries.is_empty() {
            // An object's first line is on disk before its directory is made.
            let objects = count(&root).map_err(StartError::file("read", &root))?;
            if objects > 0 {
                return Err(StartError::ObjectsUnknown { journal: path, root, objects });
            }
        }
        let mut options = OpenOptions::new();
        let journal = open_whole(options.append(true).create(true).mode(0o600), &path);
        let journal = journal.map_err(StartError::file("open", &path))?;
        let book = Book { ledger: Ledger::read(entries), journal };
        let objects = Self { root, signer, book: Mutex::new(book), sealed: Sealed::default() };
        let write = StartError::file("write", &path);
        objects.settle(lives).map_err(write)?;
        Ok(objects)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // A line is written before it is applied, so a panic leaves the ledger as the file has it, or one line behind.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, lives: impl Fn(&Holder) -> bool) -> io::Result<()> {
        {
            let mut book = self.book();
            let lines = book.ledger.settle(lives);
            book.write(lines)?;
        }
        let doomed = self.book().ledger.doomed();
        for object in &doomed {
            self.remove(object)?.unwrap_or_else(|error| left(&object.0, &error));
        }
        // What no line tells of was cut off before it was announced, or after it was gone.
        let known = |name: &str| self.book().ledger.knows(&ObjectId(name.to_owned()));
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() && !entry.file_name().to_str().is_some_and(known) {
                let name = entry.file_name();
                fs::remove_dir_all(entry.path()).unwrap_or_else(|error| left(&name.to_string_lossy(), &error));
            }
        }
        Ok(())
    }

    /// Where an object's files are.
    pub(crate) fn path(&self, id: &ObjectId) -> PathBuf {
        self.root.join(&id.0)
    }

    /// Announces a new object for a holder and makes its directory. Blocks.
    pub(crate) fn make(&self, holder: Holder) -> Result<(ObjectId, PathBuf), HostError> {
        let id = ObjectId(generation::fresh_id()?);
        let mut book = self.book();
        let line = book.ledger.make(&id, holder).map_err(|e| failed(&e))?;
        Step::ObjectMake.before();
        book.write(vec![line]).map_err(|e| failed(&e))?;
        let path = self.path(&id);
        fs::DirBuilder::new().mode(0o700).create(&path).map_err(|e| failed(&e))?;
        Step::ObjectMake.after();
        Ok((id, path))
    }

    /// One more rests on an object. Lasting with the next line that is, or with [`Objects::sync`]. Blocks.
    pub(crate) fn hold(&self, id: &ObjectId, holder: Holder) -> Result<(), HostError> {
        let mut book = self.book();
        let line = book.ledger.hold(id, holder).map_err(|e| HostError::Damaged(e.to_string()))?;
        Step::ObjectHold.before();
        book.append(line, false).map_err(|e| failed(&e))?;
        Step::ObjectHold.after();
        Ok(())
    }

    /// Makes every line lasting. Blocks.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let journal = self.book().journal.try_clone()?;
        journal.sync_data()
    }

    /// A holder lets go of everything; what nobody rests on any more is removed. Blocks.
    ///
    /// # Errors
    /// Files of its own that cannot be removed: it holds them still, and may let go of them again.
    pub(crate) fn release(&self, holder: &Holder) -> io::Result<()> {
        {
            let mut book = self.book();
            let lines = book.ledger.release(holder);
            if !lines.is_empty() {
                Step::ObjectRelease.before();
                book.write(lines)?;
                Step::ObjectRelease.after();
            }
        }
        // Doomed now, or before and not removed yet. All of them are tried, whatever becomes of the first.
        let mine = self.book().ledger.of(holder);
        mine.iter().map(|object| self.remove(object).flatten()).fold(Ok(()), Result::and)
    }

    /// Removes a doomed object's files, and notes that they are gone; inside is what became of the files, outside of the note.
    fn remove(&self, object: &ObjectId) -> io::Result<io::Result<()>> {
        Step::ObjectRemove.before();
        match fs::remove_dir_all(self.path(object)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Ok(Err(error)),
            _ => {}
        }
        let mut book = self.book();
        let lines = book.ledger.gone(object);
        book.write(lines)?;
        Step::ObjectRemove.after();
        Ok(Ok(()))
    }

    /// The object that a holder rests on, if there is one.
    pub(crate) fn of(&self, holder: &Holder) -> Option<ObjectId> {
        self.book().ledger.of(holder).into_iter().next()
    }

    /// Everybody who rests on anything.
    pub(crate) fn holders(&self) -> Vec<Holder> {
        self.book().ledger.everybody().into_iter().collect()
    }

    /// Objects whose files stay.
    pub(crate) fn there(&self) -> Vec<ObjectId> {
        self.book().ledger.there()
    }

    /// Who rests on an object; nobody, once it is to be removed.
    pub(crate) fn holders_of(&self, id: &ObjectId) -> Vec<Holder> {
        let book = self.book();
        if book.ledger.has(id) { book.ledger.holders(id) } else { Vec::new() }
    }

    /// The signed manifest of an object. Blocks for a small file.
    pub(crate) fn manifest(&self, id: &ObjectId) -> Result<Manifest, HostError> {
        let read = self.signer.read(&self.path(id).join(MANIFEST));
        let manifest = read.map_err(|error| HostError::Damaged(error.to_string()))?;
        if manifest.id == id.0 { Ok(manifest) } else { Err(HostError::Damaged("the manifest is another's".into())) }
    }

    /// The memory image of an object, as its signed manifest names it. Blocks for a small file.
    fn memory(&self, id: &ObjectId) -> Result<Part, HostError> {
        let none = || HostError::Damaged("the manifest names no memory image".into());
        self.manifest(id)?.parts.memory_base.ok_or_else(none)
    }

    /// What an object's memory image holds.
    pub(crate) async fn base_digest(self: &Arc<Self>, id: &ObjectId) -> Result<Digest, HostError> {
        let (objects, id) = (Arc::clone(self), id.clone());
        let read = tokio::task::spawn_blocking(move || objects.memory(&id));
        Ok(read.await.map_err(join_failed)??.digest)
    }

    /// The memory image of an object, loaded and write-sealed; it holds what the manifest says.
    pub(crate) async fn sealed_base(self: &Arc<Self>, id: &ObjectId) -> Result<Arc<File>, HostError> {
        let (objects, of) = (Arc::clone(self), id.clone());
        self.sealed.of(id, move || objects.memory(&of), self.path(id).join(MEMORY)).await
    }

    /// Takes the sealed image that an adopted sandbox's keeper has, if none is loaded.
    pub(crate) async fn adopt_base(&self, id: &ObjectId, file: File) -> Option<Arc<File>> {
        self.sealed.offer(id, file).await
    }

    /// Lets go of memory images that nobody has used for a while.
    pub(crate) fn let_go(&self) {
        self.sealed.let_go(std::time::Instant::now());
    }
}

/// Said of files that a start leaves: they take their place on the disk, and the next start tries again.
fn left(name: &str, error: &io::Error) {
    tracing::error!(object = name, %error, "the files of an object that nobody needs cannot be removed");
}

impl Book {
    fn write(&mut self, lines: Vec<Entry>) -> io::Result<()> {
        lines.into_iter().try_for_each(|line| self.append(line, true))
    }

    fn append(&mut self, line: Entry, lasting: bool) -> io::Result<()> {
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        append(&mut self.journal, &text, lasting)?;
        self.ledger.apply(line);
        Ok(())
    }
}

/// How many objects have a directory; what is called otherwise was not made by Atoll.
fn count(root: &Path) -> io::Result<usize> {
    let mut objects = 0;
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let is_named = entry.file_name().to_str().is_some_and(generation::is_id);
        objects += usize::from(is_named && entry.file_type()?.is_dir());
    }
    Ok(objects)
}

/// The journal's lines; a last one that a crash cut short announced nothing.
fn read(path: &Path) -> io::Result<Vec<Entry>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let lines = text.split_inclusive(|b| *b == b'\n').filter(|line| line.ends_with(b"\n"));
    lines.map(|line| serde_json::from_slice(line).map_err(io::Error::from)).collect()
}

/// Allocated bytes of an object's files.
pub(crate) fn allocated(path: &Path) -> Result<u64, HostError> {
    use std::os::unix::fs::MetadataExt as _;
    let sum = || {
        let mut bytes = 0;
        for entry in fs::read_dir(path)? {
            bytes += entry?.metadata()?.blocks() * 512;
        }
        Ok::<_, io::Error>(bytes)
    };
    sum().map_err(|e| failed(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(data: &Path) -> Objects {
        let signer = Arc::new(Signer::open(data).unwrap());
        Objects::open(data, signer, |_| true).unwrap()
    }

    fn template(id: &str) -> Holder {
        Holder::Template { id: id.into() }
    }

    /// No directory stands where one is to be removed, which no privilege overcomes.
    fn block(path: &Path) {
        fs::remove_dir_all(path).unwrap();
        fs::write(path, "in the way").unwrap();
    }

    #[test]
    fn objects_without_a_journal_keep_atoll_from_starting_and_stay() {
        let dir = tempfile::tempdir().unwrap();
        let signer = Arc::new(Signer::open(dir.path()).unwrap());
        let try_open = || Objects::open(dir.path(), Arc::clone(&signer), |_| true);
        // What a file system of its own begins with.
        fs::create_dir_all(dir.path().join("objects/lost+found")).unwrap();
        let objects = try_open().unwrap();
        let (id, path) = objects.make(template("t")).unwrap();
        fs::write(path.join(STATE), "device state").unwrap();
        drop(objects);
        let journal = dir.path().join("objects").join(JOURNAL);
        let lines = fs::read(&journal).unwrap();
        for left in [None, Some(&b""[..]), Some(&lines[..lines.len() - 1])] {
            fs::remove_file(&journal).unwrap();
            if let Some(text) = left {
                fs::write(&journal, text).unwrap();
            }
            let refused = try_open().unwrap_err();
            assert!(matches!(refused, StartError::ObjectsUnknown { objects: 1, .. }), "{left:?}: {refused:?}");
            assert!(refused.to_string().contains(&journal.display().to_string()), "{refused}");
            assert_eq!(fs::read(path.join(STATE)).unwrap(), b"device state");
            assert_eq!(fs::read(&journal).ok().as_deref(), left, "it is as it was found");
            fs::write(&journal, &lines).unwrap();
        }
        assert_eq!(try_open().unwrap().of(&template("t")), Some(id), "with its journal it is as if nothing had been");
    }

    #[test]
    fn files_that_cannot_be_removed_stay_their_last_holders_and_are_in_nobody_elses_way() {
        let dir = tempfile::tempdir().unwrap();
        let objects = open(dir.path());
        let (bad, path) = objects.make(template("bad")).unwrap();
        let (good, _) = objects.make(template("good")).unwrap();
        block(&path);
        for _ in 0..2 {
            assert!(objects.release(&template("bad")).is_err(), "as often as it is tried");
        }
        assert_eq!(objects.of(&template("bad")), Some(bad.clone()), "it has something to let go of");
        let refused = objects.hold(&bad, template("other"));
        assert!(matches!(refused, Err(HostError::Damaged(_))), "{refused:?}");
        objects.release(&template("good")).unwrap();
        assert!(!objects.path(&good).exists(), "another's are removed");
        drop(objects);
        let objects = open(dir.path());
        assert!(objects.release(&template("bad")).is_err(), "after a restart, too");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        objects.release(&template("bad")).unwrap();
        assert!(!path.exists() && objects.holders().is_empty());
        objects.release(&template("bad")).unwrap();
    }
}
