//! Memory images of objects, in memory once for all VMs that are started from them.
//!
//! How it works: an image is a write-sealed memfd that stays as long as a VM that was started from it, and a little longer: whoever makes
//! one sandbox after another, or resumes what was just paused, loads it once. It is Atoll's own copy of the object's file or, after a
//! restart, what an adopted sandbox's keeper still has. Either is read whole and compared with the signed manifest before the
//! first VM gets it, because whoever took a VMM over may have its keeper give another image away; the seals make that one look
//! last. One that does not hold what it must is never handed out: then the file is loaded.
//!
//! Deliberately absent: knowing a memfd again by its inode. Such numbers are given again once a file is gone and start anew with the
//! machine, and they say nothing of what a file holds.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_domain::host::HostError;
use atoll_domain::objects::ObjectId;
use atoll_domain::snapshot::Part;
use atoll_keeper::memory::base::{is_sealed, seal};
use atoll_keeper::memory::digest_of;
use tokio::sync::Mutex;

use crate::error::{failed, from_keeper, join_failed};

/// How long an image that nobody uses stays: it is as large as what its guest had touched.
const LINGER: Duration = Duration::from_secs(20);

/// An image that VMs are, or were a moment ago, mapped from.
#[derive(Debug)]
struct Image {
    file: Arc<File>,
    /// Whether it was read and holds what it must.
    verified: bool,
    /// When somebody beside this list was last seen to have it.
    used: Instant,
}

impl Image {
    fn new(file: &Arc<File>, verified: bool) -> Self {
        Self { file: Arc::clone(file), verified, used: Instant::now() }
    }
}

/// The images of all objects.
#[derive(Debug, Default)]
pub(crate) struct Sealed {
    /// The lock is held while one is loaded or read, so that this is done once.
    images: Mutex<HashMap<ObjectId, Image>>,
}

impl Sealed {
    /// The image of an object, for a VM that is to be started from it: `expected` says what it must hold, `path` where it is on disk.
    pub(crate) async fn of(
        &self,
        id: &ObjectId,
        expected: impl FnOnce() -> Result<Part, HostError> + Send + 'static,
        path: PathBuf,
    ) -> Result<Arc<File>, HostError> {
        let mut images = self.images.lock().await;
        let offered = match images.get_mut(id) {
            Some(image) if image.verified => {
                image.used = Instant::now();
                return Ok(Arc::clone(&image.file));
            }
            Some(image) => Some(Arc::clone(&image.file)),
            None => None,
        };
        let object = id.clone();
        let verified = tokio::task::spawn_blocking(move || {
            let expected = expected()?;
            match offered.filter(|file| is_the_same(file, &expected, &object)) {
                Some(file) => Ok(file),
                None => load(&path, &expected).map(Arc::new),
            }
        });
        let file = verified.await.map_err(join_failed)??;
        images.insert(id.clone(), Image::new(&file, true));
        Ok(file)
    }

    /// Takes the image that an adopted sandbox's keeper has, for the next VM of the object if no image is there; answers what its VM's
    /// owner has to hold. It is read when that next one comes: a start of Atoll waits for no memory to be read.
    pub(crate) async fn offer(&self, id: &ObjectId, file: File) -> Option<Arc<File>> {
        if !is_ours(&file) {
            return None;
        }
        let mut images = self.images.lock().await;
        if let Some(image) = images.get(id) {
            return Some(Arc::clone(&image.file));
        }
        let file = Arc::new(file);
        images.insert(id.clone(), Image::new(&file, false));
        Some(file)
    }

    /// Lets go of what nobody has used for a while; called every now and then. What is being loaded is left for the next time.
    pub(crate) fn let_go(&self, now: Instant) {
        let Ok(mut images) = self.images.try_lock() else { return };
        images.retain(|_, image| {
            if Arc::strong_count(&image.file) > 1 {
                image.used = now;
            }
            now.saturating_duration_since(image.used) < LINGER
        });
    }
}

/// Whether nobody can change it: not what it holds, and not who may open it, which its owner could.
fn is_ours(file: &File) -> bool {
    is_sealed(file) && file.metadata().is_ok_and(|facts| facts.uid() == nix::unistd::geteuid().as_raw())
}

fn is_the_same(file: &File, expected: &Part, object: &ObjectId) -> bool {
    let same = holds(file, expected).unwrap_or_else(|error| {
        tracing::warn!(object = %object.0, %error, "a memory image that a keeper has cannot be read");
        false
    });
    if !same {
        // Nothing but an attack, or broken memory, makes it so.
        tracing::error!(object = %object.0, "a keeper gave a memory image that is not its object's; no other VM gets it");
    }
    same
}

/// Loads the object's file. Blocks, for long.
fn load(path: &Path, expected: &Part) -> Result<File, HostError> {
    let image = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => HostError::Damaged("the memory image is missing".into()),
        _ => failed(&error),
    })?;
    let file = seal(&image).map_err(from_keeper)?;
    // Of the sealed copy: nobody can change it after this look.
    if holds(&file, expected)? {
        return Ok(file);
    }
    Err(HostError::Damaged("the memory image does not hold what it must".into()))
}

fn holds(file: &File, expected: &Part) -> Result<bool, HostError> {
    // First: what somebody else made may be longer than anybody wants to read.
    if file.metadata().map_err(|e| failed(&e))?.len() != expected.bytes {
        return Ok(false);
    }
    Ok(digest_of(file).map_err(from_keeper)?.0.0 == expected.digest.0)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::fchown;

    use atoll_domain::snapshot::Digest;

    use super::*;

    const BYTES: usize = 3 << 20;

    /// A file of one byte over and over, and the sealed image of one like it.
    fn image(dir: &Path, byte: u8) -> (PathBuf, Part, File) {
        let path = dir.join(format!("memory-{byte}"));
        std::fs::write(&path, vec![byte; BYTES]).unwrap();
        let file = File::open(&path).unwrap();
        let (digest, bytes) = digest_of(&file).unwrap();
        let part = Part { bytes, digest: Digest(digest.0) };
        let sealed = seal(&file).unwrap();
        (path, part, sealed)
    }

    fn first_byte(file: &File) -> u8 {
        let mut byte = [0];
        File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file)))
            .unwrap()
            .read_exact(&mut byte)
            .unwrap();
        byte[0]
    }

    #[tokio::test]
    async fn another_sealed_image_of_the_same_size_is_handed_to_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let (sealed, id) = (Sealed::default(), ObjectId("o".into()));
        let (path, part, _) = image(dir.path(), 1);
        let (_, _, others) = image(dir.path(), 2);
        let theirs = sealed.offer(&id, others).await.unwrap();
        let given = sealed.of(&id, move || Ok(part), path.clone()).await.unwrap();
        assert_eq!((first_byte(&theirs), first_byte(&given)), (2, 1));
        // What is verified stays, also for a sandbox that is adopted later.
        let (_, _, others) = image(dir.path(), 2);
        assert!(Arc::ptr_eq(&sealed.offer(&id, others).await.unwrap(), &given));
        let none = || -> Result<Part, HostError> { panic!("it was read already") };
        assert!(Arc::ptr_eq(&sealed.of(&id, none, path).await.unwrap(), &given));
    }

    #[tokio::test]
    async fn an_image_of_another_size_or_without_an_object_is_handed_to_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let (sealed, id) = (Sealed::default(), ObjectId("o".into()));
        let (path, part, own) = image(dir.path(), 1);
        let _theirs = sealed.offer(&id, own).await.unwrap();
        let longer = Part { bytes: part.bytes + 1, ..part };
        let refused = sealed.of(&id, move || Ok(longer), path.clone()).await;
        assert!(matches!(refused, Err(HostError::Damaged(_))), "{refused:?}");
        let without = || Err(HostError::Damaged("no manifest".into()));
        let refused = sealed.of(&id, without, path).await;
        assert_eq!(refused.unwrap_err(), HostError::Damaged("no manifest".into()));
    }

    #[tokio::test]
    async fn a_keepers_image_that_is_its_objects_is_handed_out_and_not_loaded_again() {
        let dir = tempfile::tempdir().unwrap();
        let (sealed, id) = (Sealed::default(), ObjectId("o".into()));
        let (path, part, own) = image(dir.path(), 1);
        std::fs::remove_file(&path).unwrap();
        let theirs = sealed.offer(&id, own).await.unwrap();
        let given = sealed.of(&id, move || Ok(part), path.clone()).await.unwrap();
        assert!(Arc::ptr_eq(&theirs, &given));
        // It stays with its VM, and a little longer.
        let now = Instant::now();
        sealed.let_go(now + 2 * LINGER);
        drop((theirs, given));
        sealed.let_go(now + 2 * LINGER + LINGER / 2);
        let none = || -> Result<Part, HostError> { panic!("it was read already") };
        drop(sealed.of(&id, none, path.clone()).await.unwrap());
        sealed.let_go(now + 4 * LINGER);
        let refused = sealed.of(&id, move || Ok(part), path).await;
        assert!(matches!(refused, Err(HostError::Damaged(_))), "it went after its last VM: {refused:?}");
    }

    #[tokio::test]
    async fn a_file_that_somebody_can_change_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let (sealed, id) = (Sealed::default(), ObjectId("o".into()));
        let (path, _, own) = image(dir.path(), 1);
        assert!(sealed.offer(&id, File::open(&path).unwrap()).await.is_none());
        // Nobody else can give files away.
        if nix::unistd::geteuid().is_root() {
            fchown(&own, Some(65534), None).unwrap();
            assert!(sealed.offer(&id, own).await.is_none(), "its owner says who may open it");
        }
    }
}
