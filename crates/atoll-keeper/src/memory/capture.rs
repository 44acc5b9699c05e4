//! Writing down how a VMM's guest memory differs from its base.
//!
//! How it works: the virtual CPUs stand still; every page that the kernel calls changed is read through `/proc/PID/mem`, which was
//! opened before privilege was dropped, and goes into the diff.
//!
//! Deliberately absent: reading the base. What is equal to it by accident is written too, which costs bytes and no more.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use super::diff::{Writer, Written};
use super::{PAGE, PIECE, pagemap};
use crate::KeeperError;
use crate::jail::MemoryFiles;

/// Writes the diff of a guest with so many bytes of memory against its base.
///
/// # Errors
/// When the memory cannot be found or read, or the file not be written.
pub fn capture(vmm: &MemoryFiles, base: &File, memory: u64, into: &File) -> Result<Written, KeeperError> {
    let inode = base.metadata().map_err(KeeperError::step("read the memory base"))?.ino();
    let mut writer = Writer::new(into, memory)?;
    let mut buffer = vec![0; PIECE];
    for segment in pagemap::locate(&vmm.maps, inode, memory)? {
        pagemap::changed(&vmm.pagemap, &segment, |first, pages| {
            let (mut page, mut left) = (first, pages);
            while left > 0 {
                let now = left.min(PIECE as u64 / PAGE);
                let piece = &mut buffer[..usize::try_from(now * PAGE).unwrap_or(PIECE)];
                let address = segment.address + page * PAGE;
                vmm.mem.read_exact_at(piece, address).map_err(KeeperError::step("read guest memory"))?;
                writer.pages(segment.first + page, piece)?;
                page += now;
                left -= now;
            }
            Ok(())
        })?;
    }
    writer.finish()
}
