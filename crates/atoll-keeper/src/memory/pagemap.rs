//! Which pages of a private mapping are no longer the base's.
//!
//! How it works: the mapping is found in `/proc/PID/maps` by the base's inode, whole and in order, even when the kernel splits it.
//! In `/proc/PID/pagemap` a page is the guest's own if it is present or swapped and not a page of the file. A page that was
//! given back to the base (`MADV_DONTNEED`) is the base's again, in the guest's eyes too.
//!
//! Deliberately absent: soft-dirty bits; a diff is cumulative, and the mapping itself remembers.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::unix::fs::FileExt as _;

use super::PAGE;
use crate::KeeperError;

const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const OF_THE_FILE: u64 = 1 << 61;
/// Entries read at once.
const ENTRIES: usize = 8 * 1024;
/// Far more than a QEMU has mappings.
const MAX_MAPS: u64 = 8 * 1024 * 1024;

/// A part of guest memory in the VMM's address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins there.
    pub address: u64,
    /// Number of its first page in guest memory.
    pub first: u64,
    /// How many.
    pub pages: u64,
}

/// Where guest memory of so many bytes lies, in order and without gaps.
///
/// # Errors
/// [`KeeperError::Unmapped`], or when `maps` cannot be read.
pub fn locate(maps: &File, inode: u64, memory: u64) -> Result<Vec<Segment>, KeeperError> {
    let mut text = String::new();
    let mut file = maps;
    file.rewind().map_err(KeeperError::step("read the VMM's mappings"))?;
    file.take(MAX_MAPS).read_to_string(&mut text).map_err(KeeperError::step("read the VMM's mappings"))?;
    segments(&text, inode, memory)
}

/// The same from the text of `maps`.
///
/// # Errors
/// [`KeeperError::Unmapped`] when not all of the memory is mapped, privately, exactly once.
pub fn segments(maps: &str, inode: u64, memory: u64) -> Result<Vec<Segment>, KeeperError> {
    let mut found: Vec<Segment> = maps.lines().filter_map(|line| segment(line, inode)).collect();
    found.sort_by_key(|segment| segment.first);
    let mut next = 0;
    for segment in &found {
        if segment.first != next {
            return Err(KeeperError::Unmapped(format!("page {next} is followed by page {}", segment.first)));
        }
        next += segment.pages;
    }
    if next.checked_mul(PAGE) != Some(memory) {
        return Err(KeeperError::Unmapped(format!("{next} pages are mapped, not {memory} bytes")));
    }
    Ok(found)
}

/// `start-end perms offset device inode path`, if it is a private mapping of the inode.
fn segment(line: &str, inode: u64) -> Option<Segment> {
    let mut words = line.split_ascii_whitespace();
    let (range, permissions, offset, _device, number) =
        (words.next()?, words.next()?, words.next()?, words.next()?, words.next()?);
    if number.parse() != Ok(inode) || !permissions.ends_with('p') {
        return None;
    }
    let (start, end) = range.split_once('-')?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let (start, end, offset) = (hex(start)?, hex(end)?, hex(offset)?);
    let pages = end.checked_sub(start)? / PAGE;
    (pages > 0).then_some(Segment { address: start, first: offset / PAGE, pages })
}

/// Calls `take` with each run of changed pages of a segment: `(first page in the segment, pages)`.
///
/// # Errors
/// When `pagemap` cannot be read; what `take` says.
pub fn changed(
    pagemap: &File,
    segment: &Segment,
    mut take: impl FnMut(u64, u64) -> Result<(), KeeperError>,
) -> Result<(), KeeperError> {
    let mut buffer = vec![0; ENTRIES * 8];
    let mut run: Option<(u64, u64)> = None;
    let mut page = 0;
    while page < segment.pages {
        let count = (segment.pages - page).min(ENTRIES as u64);
        let bytes = &mut buffer[..usize::try_from(count).unwrap_or(ENTRIES) * 8];
        let offset = (segment.address / PAGE + page) * 8;
        pagemap.read_exact_at(bytes, offset).map_err(KeeperError::step("read which pages changed"))?;
        for entry in bytes.chunks_exact(8) {
            let entry = entry.try_into().map(u64::from_ne_bytes).unwrap_or_default();
            let own = entry & (PRESENT | SWAPPED) != 0 && entry & OF_THE_FILE == 0;
            match &mut run {
                Some((_, pages)) if own => *pages += 1,
                Some((first, pages)) => {
                    take(*first, *pages)?;
                    run = None;
                }
                None if own => run = Some((page, 1)),
                None => {}
            }
            page += 1;
        }
    }
    match run {
        Some((first, pages)) => take(first, pages),
        None => Ok(()),
    }
}
