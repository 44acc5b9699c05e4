//! Blocks of a tar archive.
//!
//! How it works: numbers are octal text, or base 256 where they are too large for that; a name longer than its field comes before its
//! entry, in an entry of kind `L` (a link's target in one of kind `K`). Every block's checksum is checked.
//!
//! Deliberately absent: pax and sparse entries; `tar` is asked for the GNU form.

use super::{ArchiveError, BLOCK};

/// Longest name or link target.
pub(super) const NAME_CAP: u64 = 4096;
const LONG_NAME: u8 = b'L';
const LONG_LINK: u8 = b'K';
const SHORT: usize = 100;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink(Vec<u8>),
    Hardlink(Vec<u8>),
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) modified: u64,
    /// Bytes of content that follow, padded to blocks.
    pub(super) size: u64,
}

/// What a block is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Block {
    /// The long name of the entry to come, of so many bytes.
    LongName(u64),
    /// The long link target of the entry to come.
    LongLink(u64),
    /// An entry.
    Entry(Entry),
    /// One of the two at the end.
    End,
}

/// Reads one block.
pub(super) fn read(block: &[u8; BLOCK]) -> Result<Block, ArchiveError> {
    if block.iter().all(|byte| *byte == 0) {
        return Ok(Block::End);
    }
    if number(&block[148..156])? != u64::from(checksum(block)) {
        return Err(ArchiveError::Malformed("a checksum is wrong"));
    }
    let size = number(&block[124..136])?;
    let text = |field: &[u8]| field.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
    let link = || text(&block[157..257]);
    let kind = match block[156] {
        LONG_NAME | LONG_LINK if size == 0 || size > NAME_CAP => {
            return Err(ArchiveError::Malformed("a name is too long"));
        }
        LONG_NAME => return Ok(Block::LongName(size)),
        LONG_LINK => return Ok(Block::LongLink(size)),
        0 | b'0' | b'7' => Kind::File,
        b'1' => Kind::Hardlink(link()),
        b'2' => Kind::Symlink(link()),
        b'5' => Kind::Directory,
        _ => {
            let name = String::from_utf8_lossy(&text(&block[..SHORT])).into_owned();
            return Err(ArchiveError::Refused(name));
        }
    };
    let mut name = text(&block[..SHORT]);
    // The older form splits a longer name over two fields; GNU's own magic means something else there.
    if &block[257..263] == b"ustar\0" {
        let prefix = text(&block[345..500]);
        if !prefix.is_empty() {
            name = [prefix, name].join(&b'/');
        }
    }
    let size = if kind == Kind::File { size } else { 0 };
    let mode = u32::try_from(number(&block[100..108])? & 0o7777).unwrap_or(0o644);
    Ok(Block::Entry(Entry { name, kind, mode, modified: number(&block[136..148])?, size }))
}

/// Writes an entry's blocks, without its content.
pub(super) fn write(entry: &Entry) -> Vec<u8> {
    let mut out = Vec::with_capacity(BLOCK);
    let link: &[u8] = match &entry.kind {
        Kind::Symlink(target) | Kind::Hardlink(target) => target,
        Kind::File | Kind::Directory => &[],
    };
    for (kind, text) in [(LONG_LINK, link), (LONG_NAME, entry.name.as_slice())] {
        if text.len() > SHORT {
            out.extend_from_slice(&block(b"././@LongLink", &[], kind, 0, 0, text.len() as u64));
            out.extend_from_slice(text);
            out.resize(out.len().next_multiple_of(BLOCK), 0);
        }
    }
    let kind = match entry.kind {
        Kind::File => b'0',
        Kind::Hardlink(_) => b'1',
        Kind::Symlink(_) => b'2',
        Kind::Directory => b'5',
    };
    out.extend_from_slice(&block(&entry.name, link, kind, entry.mode, entry.modified, entry.size));
    out
}

fn block(name: &[u8], link: &[u8], kind: u8, mode: u32, modified: u64, size: u64) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &name[..name.len().min(SHORT)]);
    put(100, &octal::<8>(u64::from(mode)));
    put(108, &octal::<8>(0));
    put(116, &octal::<8>(0));
    put(124, &octal::<12>(size));
    put(136, &octal::<12>(modified));
    put(156, &[kind]);
    put(157, &link[..link.len().min(SHORT)]);
    put(257, b"ustar  \0");
    let sum = format!("{:06o}\0 ", checksum(&block));
    block[148..156].copy_from_slice(sum.as_bytes());
    block
}

/// The sum of all bytes, the checksum's own counted as spaces.
fn checksum(block: &[u8; BLOCK]) -> u32 {
    let own = 148..156;
    block.iter().enumerate().map(|(at, byte)| if own.contains(&at) { 32 } else { u32::from(*byte) }).sum()
}

fn octal<const N: usize>(value: u64) -> [u8; N] {
    let digits = N - 1;
    let text = format!("{value:0digits$o}");
    let mut field = [0; N];
    if text.len() == digits {
        field[..digits].copy_from_slice(text.as_bytes());
    } else {
        field[0] = 0x80;
        field[N - 8..].copy_from_slice(&value.to_be_bytes());
    }
    field
}

fn number(field: &[u8]) -> Result<u64, ArchiveError> {
    let bad = ArchiveError::Malformed("a number cannot be read");
    if field[0] & 0x80 != 0 {
        let (high, low) = field.split_at(field.len().saturating_sub(8));
        let high_is_empty = high.iter().enumerate().all(|(at, byte)| *byte == if at == 0 { 0x80 } else { 0 });
        let value = low.iter().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
        // A negative time (before 1970) counts as none.
        return if high_is_empty {
            Ok(value)
        } else if field[0] == 0xff {
            Ok(0)
        } else {
            Err(bad)
        };
    }
    let mut digits = field.iter().skip_while(|byte| **byte == b' ').take_while(|byte| !matches!(**byte, 0 | b' '));
    digits
        .try_fold(0_u64, |value, byte| match byte {
            b'0'..=b'7' => value.checked_mul(8).map(|value| value + u64::from(byte - b'0')),
            _ => None,
        })
        .ok_or(bad)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn blocks(bytes: &[u8]) -> Vec<[u8; BLOCK]> {
        bytes.chunks(BLOCK).map(|chunk| chunk.try_into().unwrap()).collect()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(name in "[a-z/]{1,100}", mode in 0_u32..0o10000, modified: u64, size: u64, link in "[a-z.]{1,100}", which in 0..4) {
            let kind = match which {
                0 => Kind::File,
                1 => Kind::Directory,
                2 => Kind::Symlink(link.into_bytes()),
                _ => Kind::Hardlink(link.into_bytes()),
            };
            let size = if kind == Kind::File { size } else { 0 };
            let entry = Entry { name: name.into_bytes(), kind, mode, modified, size };
            let written = blocks(&write(&entry));
            prop_assert_eq!(written.len(), 1);
            prop_assert_eq!(read(&written[0]).unwrap(), Block::Entry(entry));
        }

        #[test]
        fn any_block_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), BLOCK)) {
            let mut block: [u8; BLOCK] = bytes.try_into().unwrap();
            let sum = format!("{:06o}\0 ", checksum(&block));
            block[148..156].copy_from_slice(sum.as_bytes());
            let _ = read(&block);
        }
    }

    #[test]
    fn a_long_name_comes_in_a_block_of_its_own_and_an_endless_one_is_refused() {
        let entry = Entry { name: vec![b'n'; 300], kind: Kind::File, mode: 0o644, modified: 1, size: 5 };
        let written = blocks(&write(&entry));
        assert_eq!(read(&written[0]).unwrap(), Block::LongName(300));
        assert_eq!(written.len(), 3);
        let endless = block(b"x", &[], LONG_NAME, 0, 0, NAME_CAP + 1);
        assert!(matches!(read(&endless), Err(ArchiveError::Malformed(_))));
        let device = block(b"dev", &[], b'3', 0, 0, 0);
        assert!(matches!(read(&device), Err(ArchiveError::Refused(_))));
    }
}
