//! Diffs, flat images and sealed bases as files.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use atoll_keeper::KeeperError;
use atoll_keeper::memory::base::{is_sealed, seal};
use atoll_keeper::memory::diff::{Extent, Header, Reader, Writer, Written};
use atoll_keeper::memory::flatten::flatten;
use atoll_keeper::memory::pagemap::{Segment, segments};
use atoll_keeper::memory::{Digest, digest_of};

const PAGE: usize = 4096;
const PAGES: usize = 64;
const MEMORY: u64 = (PAGE * PAGES) as u64;

/// A base whose page n is full of the byte n + 1, and a diff over it: data, zero, data, and a last page.
fn example() -> (File, File, Written) {
    let (base, diff) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    for page in 0..PAGES {
        base.write_all_at(&[u8::try_from(page).unwrap() + 1; PAGE], (page * PAGE) as u64).unwrap();
    }
    let mut writer = Writer::new(&diff, MEMORY).unwrap();
    let run = [[0xaa; PAGE], [0; PAGE], [0; PAGE], [0xbb; PAGE]].concat();
    writer.pages(3, &run).unwrap();
    writer.pages(7, &[0xcc; PAGE]).unwrap();
    writer.pages(63, &[0xdd; PAGE]).unwrap();
    let written = writer.finish().unwrap();
    (base, diff, written)
}

fn page(file: &File, number: usize) -> u8 {
    let mut bytes = [0; PAGE];
    file.read_exact_at(&mut bytes, (number * PAGE) as u64).unwrap();
    assert!(bytes.iter().all(|b| *b == bytes[0]), "page {number} is mixed");
    bytes[0]
}

#[test]
fn a_diff_tells_data_from_zero_and_flattens_over_its_base() {
    let (base, diff, written) = example();
    assert_eq!((written.data_pages, written.zero_pages), (4, 2));
    assert_eq!(written.bytes, diff.metadata().unwrap().len());
    let reader = Reader::open(&diff, MEMORY).unwrap();
    let extent = |first, pages, zero| Extent { first, pages, zero };
    let expected = [extent(3, 1, false), extent(4, 2, true), extent(6, 2, false), extent(63, 1, false)];
    assert_eq!(reader.extents, expected);
    assert_eq!(reader.header.digest, written.digest);
    let out = tempfile::tempfile().unwrap();
    let digest = flatten(&base, Some((&diff, written.digest)), MEMORY, &out).unwrap();
    assert_eq!(digest, digest_of(&out).unwrap().0);
    assert_eq!(out.metadata().unwrap().len(), MEMORY);
    let changed = [(3, 0xaa), (4, 0), (5, 0), (6, 0xbb), (7, 0xcc), (63, 0xdd)];
    for number in 0..PAGES {
        let kept = u8::try_from(number).unwrap() + 1;
        let wanted = changed.iter().find(|(page, _)| *page == number).map_or(kept, |(_, byte)| *byte);
        assert_eq!(page(&out, number), wanted, "page {number}");
    }
    assert_eq!(page(&base, 3), 4, "the base is not touched");
}

#[test]
fn a_sparse_base_stays_sparse() {
    let base = tempfile::tempfile().unwrap();
    base.set_len(64 << 20).unwrap();
    base.write_all_at(&[7; PAGE], 32 << 20).unwrap();
    let out = tempfile::tempfile().unwrap();
    flatten(&base, None, 64 << 20, &out).unwrap();
    assert_eq!(digest_of(&out).unwrap(), digest_of(&base).unwrap());
    assert!(out.metadata().unwrap().blocks() * 512 < 1 << 20, "{} blocks", out.metadata().unwrap().blocks());
}

/// Every cut and every changed bit is refused, whatever it hits.
#[test]
fn a_diff_that_was_cut_or_changed_is_refused() {
    let (base, diff, written) = example();
    let length = diff.metadata().unwrap().len();
    let mut whole = vec![0; usize::try_from(length).unwrap()];
    diff.read_exact_at(&mut whole, 0).unwrap();
    let refused = |bytes: &[u8]| {
        let (file, out) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        file.write_all_at(bytes, 0).unwrap();
        matches!(
            flatten(&base, Some((&file, written.digest)), MEMORY, &out),
            Err(KeeperError::Diff(_) | KeeperError::Digest { .. })
        )
    };
    assert!(!refused(&whole));
    for cut in [0, 1, 100, 4095, 4096, 5000, whole.len() - 16, whole.len() - 1] {
        assert!(refused(&whole[..cut]), "cut to {cut}");
    }
    assert!(refused(&[&whole[..], &[0]].concat()), "longer");
    for at in (0..80).chain([4000, 4096, 9000]).chain(whole.len() - 64..whole.len()) {
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        assert!(refused(&changed), "byte {at}");
    }
    let other = Reader::open(&diff, MEMORY * 2).unwrap_err();
    assert!(other.to_string().contains("262144 bytes"), "{other}");
    let foreign = flatten(&base, Some((&diff, Digest([1; 32]))), MEMORY, &tempfile::tempfile().unwrap());
    assert!(matches!(foreign, Err(KeeperError::Digest { .. })));
}

#[test]
fn a_newer_diff_is_refused_by_its_version() {
    let (_, diff, _) = example();
    diff.write_all_at(&2_u32.to_le_bytes(), 8).unwrap();
    let error = Reader::open(&diff, MEMORY).unwrap_err();
    assert!(error.to_string().contains("version 2"), "{error}");
    assert!(Header::parse(&[0; 10], 10).is_err());
}

#[test]
fn a_shared_base_cannot_be_changed_by_anybody() {
    let image = tempfile::tempfile().unwrap();
    image.set_len(MEMORY).unwrap();
    image.write_all_at(&[9; PAGE], PAGE as u64).unwrap();
    let shared = seal(&image).unwrap();
    assert!(is_sealed(&shared) && !is_sealed(&image));
    assert_eq!(digest_of(&shared).unwrap(), digest_of(&image).unwrap());
    assert!(shared.write_all_at(&[1], 0).is_err());
    assert!(shared.set_len(0).is_err() && shared.set_len(MEMORY * 2).is_err());
}

#[test]
fn guest_memory_is_found_in_the_mappings_whole_or_not_at_all() {
    let maps = "\
7f0000000000-7f0000004000 rw-p 00004000 fe:00 77 /memory.raw
7f0000004000-7f0000008000 r--p 00000000 fe:00 12 /lib/x.so
7e0000000000-7e0000004000 rw-p 00000000 fe:00 77 /memory.raw
7e1000000000-7e1000004000 rw-s 00000000 fe:00 77 /memory.raw
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0 [stack]
";
    let found = segments(maps, 77, 8 * PAGE as u64).unwrap();
    let wanted = [
        Segment { address: 0x7e00_0000_0000, first: 0, pages: 4 },
        Segment { address: 0x7f00_0000_0000, first: 4, pages: 4 },
    ];
    assert_eq!(found, wanted);
    for (inode, memory) in [(77, 4 * PAGE as u64), (77, 9 * PAGE as u64), (78, 8 * PAGE as u64)] {
        assert!(matches!(segments(maps, inode, memory), Err(KeeperError::Unmapped(_))), "{inode} {memory}");
    }
    let twice = format!("{maps}7d0000000000-7d0000004000 rw-p 00000000 fe:00 77 /memory.raw\n");
    assert!(segments(&twice, 77, 8 * PAGE as u64).is_err());
    assert!(segments("no maps at all\n-\n", 77, 0).unwrap().is_empty());
}
