//! The archive that a guest starts from.
//!
//! How it works: written, and looked at by its bytes.
//!
//! Deliberately absent: reading it back; the end-to-end tests' kernels do.

use atoll_disk::cpio;

#[test]
fn an_archive_is_whole_pages_whatever_is_in_it() {
    for length in [0, 1, 3320, 4095, 4096, 100_000] {
        let archive = cpio(&vec![7; length], &[("a.ko".into(), vec![8; length / 3])]);
        assert_eq!(archive.len() % 4096, 0, "{length}");
        assert_eq!(archive, cpio(&vec![7; length], &[("a.ko".into(), vec![8; length / 3])]));
    }
}
