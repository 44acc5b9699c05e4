//! Making base and diff into a new base.
//!
//! How it works: pure file work for the host agent's blocking threads. The base is cloned where the file system shares extents, else its
//! data is copied and its holes stay holes; then the diff is laid over it, zero pages as holes; then it is on disk.
//!
//! Deliberately absent: names and renames; the caller gives an empty file and moves it into place.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek64};

use super::diff::{Piece, Reader};
use super::{Digest, digest_of_while};
use crate::KeeperError;

const COPY: usize = 1 << 20;
/// `_IOW(0x94, 9, int)`, the same on every architecture that Linux shares it with.
const FICLONE: libc::c_ulong = 0x4004_9409;

/// Writes a flat image of so many bytes into an empty file and answers its digest. Without a diff this is a copy.
///
/// # Errors
/// When the diff is not what it must be (the output is worthless then), or what the file system says.
pub fn flatten(base: &File, diff: Option<(&File, Digest)>, memory: u64, out: &File) -> Result<Digest, KeeperError> {
    flatten_while(base, diff, memory, out, &|| true)
}

/// The same, as long as `go_on` says so; it is asked between pieces.
///
/// # Errors
/// As [`flatten`], and [`KeeperError::CalledOff`].
pub fn flatten_while(
    base: &File,
    diff: Option<(&File, Digest)>,
    memory: u64,
    out: &File,
    go_on: &dyn Fn() -> bool,
) -> Result<Digest, KeeperError> {
    let length = base.metadata().map_err(KeeperError::step("read the memory base"))?.len();
    if length != memory {
        return Err(KeeperError::Diff(format!("its base has {length} bytes, the memory {memory}")));
    }
    let reader = diff.map(|(file, digest)| Ok::<_, KeeperError>((Reader::open(file, memory)?, digest))).transpose()?;
    if !clone_whole(base, out) {
        out.set_len(0).and_then(|()| out.set_len(memory)).map_err(KeeperError::step("size the new base"))?;
        copy_data_while(base, out, go_on)?;
    }
    if let Some((reader, digest)) = reader {
        reader.stream(Some(digest), |offset, piece| {
            if !go_on() {
                return Err(KeeperError::CalledOff);
            }
            match piece {
                Piece::Data(bytes) => out.write_all_at(bytes, offset).map_err(KeeperError::step("write the new base")),
                Piece::Zero(bytes) => punch(out, offset, bytes),
            }
        })?;
    }
    out.sync_all().map_err(KeeperError::step("put the new base on disk"))?;
    Ok(digest_of_while(out, go_on)?.0)
}

/// Shares all extents; false where the file system cannot.
fn clone_whole(from: &File, to: &File) -> bool {
    // SAFETY: FICLONE takes a descriptor by value; both are open.
    unsafe { libc::ioctl(to.as_raw_fd(), FICLONE, from.as_raw_fd()) == 0 }
}

/// Copies what is not a hole, at the same offsets.
pub(super) fn copy_data(from: &File, to: &File) -> Result<(), KeeperError> {
    copy_data_while(from, to, &|| true)
}

fn copy_data_while(from: &File, to: &File, go_on: &dyn Fn() -> bool) -> Result<(), KeeperError> {
    let mut offset: i64 = 0;
    loop {
        let start = match lseek64(from, offset, Whence::SeekData) {
            Ok(start) => start,
            Err(nix::errno::Errno::ENXIO) => return Ok(()),
            Err(errno) => return Err(KeeperError::errno("find the data of the memory base")(errno)),
        };
        offset =
            lseek64(from, start, Whence::SeekHole).map_err(KeeperError::errno("find the holes of the memory base"))?;
        copy_range(from, to, start.unsigned_abs(), offset.unsigned_abs(), go_on)?;
    }
}

fn copy_range(from: &File, to: &File, start: u64, end: u64, go_on: &dyn Fn() -> bool) -> Result<(), KeeperError> {
    let mut at = start;
    let mut buffer = vec![0; COPY];
    while at < end {
        if !go_on() {
            return Err(KeeperError::CalledOff);
        }
        let piece = &mut buffer[..usize::try_from(end - at).unwrap_or(COPY).min(COPY)];
        from.read_exact_at(piece, at).map_err(KeeperError::step("read the memory base"))?;
        to.write_all_at(piece, at).map_err(KeeperError::step("copy the memory base"))?;
        at += piece.len() as u64;
    }
    Ok(())
}

/// Makes a range zero; by hand where the file system has no holes.
fn punch(file: &File, offset: u64, bytes: u64) -> Result<(), KeeperError> {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let (Ok(at), Ok(length)) = (i64::try_from(offset), i64::try_from(bytes)) else {
        return Err(KeeperError::Diff("it is longer than a file can be".into()));
    };
    match fallocate(file, flags, at, length) {
        Ok(()) => Ok(()),
        Err(nix::errno::Errno::EOPNOTSUPP) => {
            let zeroes = vec![0; usize::try_from(bytes).unwrap_or(COPY).min(COPY)];
            let mut done = 0;
            while done < bytes {
                let now = usize::try_from(bytes - done).unwrap_or(COPY).min(COPY);
                let written = file.write_all_at(&zeroes[..now], offset + done);
                written.map_err(KeeperError::step("write the new base"))?;
                done += now as u64;
            }
            Ok(())
        }
        Err(errno) => Err(KeeperError::errno("make a hole in the new base")(errno)),
    }
}
