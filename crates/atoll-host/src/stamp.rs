//! A sandbox's own memory image, checked before anything is started or made from it.
//!
//! How it works: when an image has been written, its size, inode and time of change are written down beside its digest. As long as they
//! are the same the image is taken as it is (hashing a whole memory costs more than a resume); when they are not, or none were
//! noted, it is hashed. The time that the kernel keeps for the inode itself is left out: giving the image to a VMM moves it.
//!
//! Deliberately absent: bytes that change on the disk by themselves while the file looks the same: only reading all of it would find them.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use atoll_domain::host::HostError;
use atoll_domain::snapshot::Digest;
use atoll_keeper::memory::digest_of;
use serde::{Deserialize, Serialize};

use crate::error::from_keeper;

/// What a file shows of itself without being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    bytes: u64,
    inode: u64,
    modified: i64,
    nanoseconds: i64,
}

impl Stamp {
    /// The file's length.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Of an open file, whose bytes are on disk.
    pub(crate) fn of(file: &File) -> io::Result<Self> {
        let facts = file.metadata()?;
        Ok(Self { bytes: facts.len(), inode: facts.ino(), modified: facts.mtime(), nanoseconds: facts.mtime_nsec() })
    }
}

/// Opens a memory image that must hold what it did when the stamp was taken. Blocks, for long if it must be read.
pub(crate) fn unchanged(path: &Path, digest: &Digest, stamp: Option<Stamp>) -> Result<File, HostError> {
    let damaged = |what: &dyn std::fmt::Display| HostError::Damaged(format!("the memory image: {what}"));
    let file = File::open(path).map_err(|e| damaged(&e))?;
    if stamp == Some(Stamp::of(&file).map_err(|e| damaged(&e))?) {
        return Ok(file);
    }
    if digest_of(&file).map_err(from_keeper)?.0.0 == digest.0 {
        return Ok(file);
    }
    Err(damaged(&"it does not hold what it must"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_read_again_when_it_looks_another_and_refused_when_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, [7; 8192]).unwrap();
        let digest = Digest(digest_of(&File::open(&path).unwrap()).unwrap().0.0);
        let stamp = Stamp::of(&File::open(&path).unwrap()).unwrap();
        assert!(unchanged(&path, &digest, Some(stamp)).is_ok());
        assert!(unchanged(&path, &Digest([0; 32]), Some(stamp)).is_ok(), "one that looks the same is not read");
        assert!(unchanged(&path, &digest, None).is_ok());
        // The same bytes in another file, as after a move of the data directory.
        let copy = dir.path().join("copy");
        std::fs::copy(&path, &copy).unwrap();
        assert!(unchanged(&copy, &digest, Some(stamp)).is_ok());
        for bytes in [vec![7; 4096], [vec![7; 8191], vec![8]].concat(), Vec::new()] {
            std::fs::write(&copy, bytes).unwrap();
            assert!(matches!(unchanged(&copy, &digest, Some(stamp)), Err(HostError::Damaged(_))));
        }
        assert!(matches!(unchanged(&dir.path().join("none"), &digest, None), Err(HostError::Damaged(_))));
    }
}
