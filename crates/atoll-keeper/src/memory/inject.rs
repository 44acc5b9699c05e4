//! Putting a diff into the memory of a VMM that waits for its guest.
//!
//! How it works: the fresh mapping of the base gets every page of the diff through `/proc/PID/mem` before the device state is loaded,
//! and the digest is verified over the same reading; a diff that turns out wrong at its end never meets a running guest.
//!
//! Deliberately absent: ending the VMM after a failure; whoever called does.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use super::diff::{Piece, Reader};
use super::pagemap::{Segment, locate};
use super::{Digest, PAGE, PIECE};
use crate::KeeperError;
use crate::jail::MemoryFiles;

/// Injects a diff that must have this digest.
///
/// # Errors
/// [`KeeperError::Diff`] and [`KeeperError::Digest`] when it is not what it must be, or what the kernel says.
pub fn inject(vmm: &MemoryFiles, base: &File, memory: u64, diff: &File, digest: Digest) -> Result<(), KeeperError> {
    let reader = Reader::open(diff, memory)?;
    let inode = base.metadata().map_err(KeeperError::step("read the memory base"))?.ino();
    let segments = locate(&vmm.maps, inode, memory)?;
    let zeroes = vec![0; PIECE];
    reader.stream(Some(digest), |offset, piece| match piece {
        Piece::Data(bytes) => write(&vmm.mem, &segments, offset, bytes),
        Piece::Zero(length) => {
            let (mut at, end) = (offset, offset + length);
            while at < end {
                let now = (end - at).min(PIECE as u64);
                write(&vmm.mem, &segments, at, &zeroes[..usize::try_from(now).unwrap_or(PIECE)])?;
                at += now;
            }
            Ok(())
        }
    })
}

/// Writes bytes at an offset of guest memory, over the borders of segments.
fn write(mem: &File, segments: &[Segment], offset: u64, bytes: &[u8]) -> Result<(), KeeperError> {
    let (mut at, mut rest) = (offset, bytes);
    for segment in segments {
        let (start, end) = (segment.first * PAGE, (segment.first + segment.pages) * PAGE);
        if rest.is_empty() {
            break;
        }
        if at < start || at >= end {
            continue;
        }
        let here = usize::try_from(end - at).unwrap_or(usize::MAX).min(rest.len());
        let (now, later) = rest.split_at(here);
        mem.write_all_at(now, segment.address + (at - start)).map_err(KeeperError::step("write guest memory"))?;
        at += here as u64;
        rest = later;
    }
    if rest.is_empty() { Ok(()) } else { Err(KeeperError::Diff("it is longer than the memory".into())) }
}
