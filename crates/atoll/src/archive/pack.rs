//! A folder of this machine as an archive.
//!
//! How it works: a walk in the order of names; contents are read piece by piece, so that nothing is held whole. A file that shrinks
//! while it is read is filled up with zeros and told; one that grows is cut where it ended at first.
//!
//! Deliberately absent: following links. They are kept as links.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::header::{Entry, Kind, write};
use super::{ArchiveError, BLOCK};

const PIECE: usize = 96 * 1024;

/// A part of the archive, in order.
#[derive(Debug)]
pub(crate) struct Piece {
    /// The bytes.
    pub(crate) bytes: Vec<u8>,
    /// How many of them are content of files.
    pub(crate) content: u64,
}

/// Gives the archive of a folder's contents, piece by piece, to `send`; stops when that says false. Answers what was left out.
pub(crate) fn pack(folder: &Path, send: &mut dyn FnMut(Piece) -> bool) -> Result<Vec<PathBuf>, ArchiveError> {
    let mut walk = Walk { left_out: Vec::new(), send };
    if walk.directory(folder, Path::new(""))? {
        (walk.send)(Piece { bytes: vec![0; 2 * BLOCK], content: 0 });
    }
    Ok(walk.left_out)
}

struct Walk<'a> {
    left_out: Vec<PathBuf>,
    send: &'a mut dyn FnMut(Piece) -> bool,
}

impl Walk<'_> {
    fn directory(&mut self, real: &Path, below: &Path) -> Result<bool, ArchiveError> {
        let failed = |source| ArchiveError::Read { path: real.to_owned(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(real).map_err(failed)? {
            names.push(entry.map_err(failed)?.file_name());
        }
        names.sort();
        for name in names {
            if !self.entry(&real.join(&name), &below.join(&name))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn entry(&mut self, real: &Path, below: &Path) -> Result<bool, ArchiveError> {
        let failed = |source| ArchiveError::Read { path: real.to_owned(), source };
        let meta = fs::symlink_metadata(real).map_err(failed)?;
        let mut entry = Entry {
            name: below.as_os_str().as_bytes().to_vec(),
            kind: Kind::File,
            mode: meta.mode() & 0o7777,
            modified: u64::try_from(meta.mtime()).unwrap_or(0),
            size: 0,
        };
        if meta.is_dir() {
            entry.kind = Kind::Directory;
            entry.name.push(b'/');
            return Ok(self.send(write(&entry), 0) && self.directory(real, below)?);
        }
        if meta.is_symlink() {
            entry.kind = Kind::Symlink(fs::read_link(real).map_err(failed)?.into_os_string().into_vec());
            return Ok(self.send(write(&entry), 0));
        }
        if !meta.is_file() {
            self.left_out.push(below.to_owned());
            return Ok(true);
        }
        let mut file = File::open(real).map_err(failed)?;
        entry.size = file.metadata().map_err(failed)?.len();
        Ok(self.send(write(&entry), 0) && self.content(&mut file, entry.size).map_err(failed)?)
    }

    fn content(&mut self, file: &mut File, size: u64) -> std::io::Result<bool> {
        let mut left = size;
        while left > 0 {
            let room = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE);
            let mut bytes = vec![0; room];
            let n = file.read(&mut bytes)?;
            // A file that shrank: what is promised in its header has to come.
            let n = if n == 0 { room } else { n };
            bytes.truncate(n);
            left -= n as u64;
            if left == 0 {
                let padding = usize::try_from(size.next_multiple_of(BLOCK as u64) - size).unwrap_or(0);
                bytes.resize(n + padding, 0);
            }
            if !self.send(bytes, n as u64) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn send(&mut self, bytes: Vec<u8>, content: u64) -> bool {
        (self.send)(Piece { bytes, content })
    }
}
