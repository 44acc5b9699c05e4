//! The file that says how a guest's memory differs from its base.
//!
//! How it works: one page of header, then the pages that hold something, in order and aligned, then the table of extents. An extent
//! is a run of pages, either with data or zero; zero ones take no bytes. The diff is cumulative: with its base it is the
//! whole memory. The header's digest covers everything else and is computed while the data streams by, in both directions.
//!
//! ```text
//!   0     magic  version  page size  memory size  data pages  extents  digest  zeroes
//!   4096  data pages …
//!   then  { first page: u64, pages: u32, kind: u32 (0 data, 1 zero) } …            all little-endian
//! ```
//!
//! Deliberately absent: chains of diffs; there is a base and at most one diff.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use super::{Digest, PAGE, PAGE_LEN, PIECE};
use crate::KeeperError;

/// The version that is written, and the only one that is read.
pub const VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"ATOLLMEM";
/// Bytes of the header that say something beside the digest.
const FIELDS: usize = 40;
const ENTRY: usize = 16;
static ZERO: [u8; PAGE_LEN] = [0; PAGE_LEN];

/// A run of pages that differ from the base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Number of its first page.
    pub first: u64,
    /// How many.
    pub pages: u32,
    /// Whether all of them are zero; then the file has no bytes for them.
    pub zero: bool,
}

/// What a diff says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Size of the guest's memory in bytes.
    pub memory: u64,
    /// Pages with data.
    pub data_pages: u64,
    /// Entries of the table.
    pub extents: u64,
    /// Of fields, data and table.
    pub digest: Digest,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// As in the header.
    pub digest: Digest,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// Pages with data.
    pub data_pages: u64,
    /// Pages that are zero.
    pub zero_pages: u64,
}

impl Header {
    fn fields(&self) -> [u8; FIELDS] {
        let mut out = [0; FIELDS];
        out[..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&4096_u32.to_le_bytes());
        out[16..24].copy_from_slice(&self.memory.to_le_bytes());
        out[24..32].copy_from_slice(&self.data_pages.to_le_bytes());
        out[32..40].copy_from_slice(&self.extents.to_le_bytes());
        out
    }

    /// Reads a header and holds it against the length of its file.
    ///
    /// # Errors
    /// [`KeeperError::Diff`] with what is wrong.
    pub fn parse(bytes: &[u8], length: u64) -> Result<Self, KeeperError> {
        let wrong = |why: String| Err(KeeperError::Diff(why));
        let Some(bytes) = bytes.get(..PAGE_LEN) else { return wrong("it is shorter than its header".into()) };
        let word = |at: usize| bytes[at..at + 4].try_into().map(u32::from_le_bytes).unwrap_or_default();
        let long = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).unwrap_or_default();
        if &bytes[..8] != MAGIC {
            return wrong("it does not begin like one".into());
        }
        if word(8) != VERSION {
            return wrong(format!("it has version {}, this Atoll knows {VERSION}", word(8)));
        }
        if u64::from(word(12)) != PAGE {
            return wrong(format!("it has pages of {} bytes, this machine of {PAGE}", word(12)));
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(&bytes[FIELDS..FIELDS + 32]);
        let header = Self { memory: long(16), data_pages: long(24), extents: long(32), digest: Digest(digest) };
        let pages = header.memory / PAGE;
        let plausible = header.memory.is_multiple_of(PAGE) && header.data_pages <= pages && header.extents <= pages;
        if !plausible || bytes[FIELDS + 32..].iter().any(|b| *b != 0) {
            return wrong("its header contradicts itself".into());
        }
        let expected = PAGE
            .checked_add(header.data_pages.saturating_mul(PAGE))
            .and_then(|sum| sum.checked_add(header.extents.saturating_mul(ENTRY as u64)));
        if expected != Some(length) {
            return wrong(format!("it has {length} bytes and not what its header says"));
        }
        Ok(header)
    }

    /// Reads the table that belongs to this header.
    ///
    /// # Errors
    /// [`KeeperError::Diff`] when extents overlap, leave the memory or do not fit the header.
    pub fn table(&self, bytes: &[u8]) -> Result<Vec<Extent>, KeeperError> {
        let mut out = Vec::with_capacity(bytes.len() / ENTRY);
        let (mut next, mut data) = (0, 0);
        for entry in bytes.chunks_exact(ENTRY) {
            let word = |at: usize| entry[at..at + 4].try_into().map(u32::from_le_bytes).unwrap_or_default();
            let first = entry[..8].try_into().map(u64::from_le_bytes).unwrap_or_default();
            let (pages, kind) = (word(8), word(12));
            let end = first.checked_add(u64::from(pages)).filter(|end| *end <= self.memory / PAGE);
            let (Some(end), true) = (end, first >= next && pages > 0 && kind <= 1) else {
                return Err(KeeperError::Diff("its table contradicts itself".into()));
            };
            next = end;
            data += if kind == 0 { u64::from(pages) } else { 0 };
            out.push(Extent { first, pages, zero: kind == 1 });
        }
        if out.len() as u64 != self.extents || !bytes.len().is_multiple_of(ENTRY) || data != self.data_pages {
            return Err(KeeperError::Diff("its table does not fit its header".into()));
        }
        Ok(out)
    }
}

fn entry(extent: &Extent) -> [u8; ENTRY] {
    let mut out = [0; ENTRY];
    out[..8].copy_from_slice(&extent.first.to_le_bytes());
    out[8..12].copy_from_slice(&extent.pages.to_le_bytes());
    out[12..].copy_from_slice(&u32::from(extent.zero).to_le_bytes());
    out
}

/// Writes a diff, page run by page run.
#[derive(Debug)]
pub struct Writer<'a> {
    file: &'a File,
    hasher: blake3::Hasher,
    memory: u64,
    extents: Vec<Extent>,
    data_pages: u64,
    zero_pages: u64,
}

impl<'a> Writer<'a> {
    /// Empties the file and begins.
    ///
    /// # Errors
    /// What the file system says.
    pub fn new(file: &'a File, memory: u64) -> Result<Self, KeeperError> {
        file.set_len(0).map_err(KeeperError::step("empty the memory diff"))?;
        let hasher = blake3::Hasher::new();
        Ok(Self { file, hasher, memory, extents: Vec::new(), data_pages: 0, zero_pages: 0 })
    }

    /// Appends pages that differ from the base; runs come in order, and `bytes` are whole pages.
    ///
    /// # Errors
    /// What the file system says.
    pub fn pages(&mut self, first: u64, bytes: &[u8]) -> Result<(), KeeperError> {
        let mut page = first;
        let mut rest = bytes;
        while !rest.is_empty() {
            let zero = is_zero(&rest[..PAGE_LEN]);
            let run = rest.chunks_exact(PAGE_LEN).take_while(|page| is_zero(page) == zero).count();
            let (now, later) = rest.split_at(run * PAGE_LEN);
            if zero {
                self.zero_pages += run as u64;
            } else {
                let offset = PAGE * (1 + self.data_pages);
                self.file.write_all_at(now, offset).map_err(KeeperError::step("write the memory diff"))?;
                self.hasher.update(now);
                self.data_pages += run as u64;
            }
            self.extend(page, run, zero);
            page += run as u64;
            rest = later;
        }
        Ok(())
    }

    fn extend(&mut self, first: u64, pages: usize, zero: bool) {
        let pages = u32::try_from(pages).unwrap_or(u32::MAX);
        if let Some(last) = self.extents.last_mut()
            && last.zero == zero
            && last.first + u64::from(last.pages) == first
            && let Some(sum) = last.pages.checked_add(pages)
        {
            last.pages = sum;
        } else {
            self.extents.push(Extent { first, pages, zero });
        }
    }

    /// Writes table and header; the file is whole then, but not yet on disk.
    ///
    /// # Errors
    /// What the file system says.
    pub fn finish(mut self) -> Result<Written, KeeperError> {
        let table: Vec<u8> = self.extents.iter().flat_map(entry).collect();
        let offset = PAGE * (1 + self.data_pages);
        self.file.write_all_at(&table, offset).map_err(KeeperError::step("write the table of the memory diff"))?;
        let (memory, data_pages, extents) = (self.memory, self.data_pages, self.extents.len() as u64);
        let mut header = Header { memory, data_pages, extents, digest: Digest([0; 32]) };
        self.hasher.update(&table);
        self.hasher.update(&header.fields());
        header.digest = self.hasher.finalize().into();
        let mut page = [0; PAGE_LEN];
        page[..FIELDS].copy_from_slice(&header.fields());
        page[FIELDS..FIELDS + 32].copy_from_slice(&header.digest.0);
        self.file.write_all_at(&page, 0).map_err(KeeperError::step("write the header of the memory diff"))?;
        let bytes = offset + table.len() as u64;
        Ok(Written { digest: header.digest, bytes, data_pages, zero_pages: self.zero_pages })
    }
}

fn is_zero(page: &[u8]) -> bool {
    page == ZERO
}

/// A diff that was opened: its shape is sound, its content not yet verified.
#[derive(Debug)]
pub struct Reader<'a> {
    file: &'a File,
    /// What it says about itself.
    pub header: Header,
    /// Its table.
    pub extents: Vec<Extent>,
    table: Vec<u8>,
}

impl<'a> Reader<'a> {
    /// Reads header and table of the diff of a guest with so many bytes of memory.
    ///
    /// # Errors
    /// [`KeeperError::Diff`], or what the file system says.
    pub fn open(file: &'a File, memory: u64) -> Result<Self, KeeperError> {
        let read = |what| KeeperError::step(format!("read the {what} of the memory diff"));
        let length = file.metadata().map_err(read("length"))?.len();
        let mut page = [0; PAGE_LEN];
        if length < PAGE {
            return Err(KeeperError::Diff("it is shorter than its header".into()));
        }
        file.read_exact_at(&mut page, 0).map_err(read("header"))?;
        let header = Header::parse(&page, length)?;
        if header.memory != memory {
            let why = format!("it is of a guest with {} bytes of memory, this one has {memory}", header.memory);
            return Err(KeeperError::Diff(why));
        }
        let offset = PAGE * (1 + header.data_pages);
        let mut table = vec![0; usize::try_from(length - offset).unwrap_or(0)];
        file.read_exact_at(&mut table, offset).map_err(read("table"))?;
        let extents = header.table(&table)?;
        Ok(Self { file, header, extents, table })
    }

    /// Streams everything to `take` (`None`: so many zero bytes from this offset of the memory), and verifies the digest.
    ///
    /// # Errors
    /// [`KeeperError::Digest`] when the content is not what the header, or `expected`, says: whatever was taken must not be
    /// used then. What `take` says, or the file system.
    pub fn stream(
        &self,
        expected: Option<Digest>,
        mut take: impl FnMut(u64, Piece<'_>) -> Result<(), KeeperError>,
    ) -> Result<(), KeeperError> {
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; PIECE];
        let mut position = PAGE;
        for extent in &self.extents {
            let (mut at, mut left) = (extent.first * PAGE, u64::from(extent.pages) * PAGE);
            if extent.zero {
                take(at, Piece::Zero(left))?;
                continue;
            }
            while left > 0 {
                let length = left.min(PIECE as u64);
                let piece = &mut buffer[..usize::try_from(length).unwrap_or(PIECE)];
                self.file.read_exact_at(piece, position).map_err(KeeperError::step("read the memory diff"))?;
                hasher.update(piece);
                take(at, Piece::Data(piece))?;
                at += length;
                position += length;
                left -= length;
            }
        }
        hasher.update(&self.table);
        hasher.update(&self.header.fields());
        let digest = Digest::from(hasher.finalize());
        if digest != self.header.digest || expected.is_some_and(|expected| expected != digest) {
            return Err(KeeperError::Digest { what: "memory diff" });
        }
        Ok(())
    }
}

/// A piece of memory out of a diff.
#[derive(Debug, Clone, Copy)]
pub enum Piece<'a> {
    /// These bytes.
    Data(&'a [u8]),
    /// So many zero bytes.
    Zero(u64),
}
