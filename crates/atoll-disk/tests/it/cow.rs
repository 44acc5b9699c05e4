//! Disks stay as sparse as they are.
//!
//! How it works: by the blocks that the file system says a file has.
//!
//! Deliberately absent: which way the copy took; that is the file system's to say.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};

use atoll_disk::{Cache, copy_disk, create_cow, disk_digest};

const MIB: u64 = 1 << 20;

#[test]
fn an_empty_disk_of_five_gigabytes_takes_a_few_blocks_and_its_copy_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(&dir.path().join("cache"), None).unwrap();
    let disk = dir.path().join("cow.raw");
    create_cow(&cache, &disk, 5120).unwrap();
    let made = fs::metadata(&disk).unwrap();
    assert_eq!((made.len(), made.permissions().mode() & 0o777), (5120 * MIB, 0o600));
    assert!(made.blocks() * 512 < 256 * MIB, "{} bytes are allocated", made.blocks() * 512);

    File::options().write(true).open(&disk).unwrap().write_all_at(&[7; 4096], 3000 * MIB).unwrap();
    let copy = dir.path().join("copy.raw");
    copy_disk(&disk, &copy).unwrap();
    let (from, to) = (fs::metadata(&disk).unwrap(), fs::metadata(&copy).unwrap());
    assert_eq!(from.len(), to.len());
    // What is allocated is what the file system rounds it to.
    assert!(to.blocks() * 512 <= from.blocks() * 512 + MIB, "{} blocks of {}", to.blocks(), from.blocks());
    assert_eq!(disk_digest(&disk).unwrap(), disk_digest(&copy).unwrap());
    File::options().write(true).open(&copy).unwrap().write_all_at(&[8], 3000 * MIB).unwrap();
    assert_ne!(disk_digest(&disk).unwrap(), disk_digest(&copy).unwrap(), "a copy is one of its own");
}
