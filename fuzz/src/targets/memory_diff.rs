//! A memory diff and the mappings of a VMM: files that were altered, and a VMM that was taken over.
//!
//! How it works: the keeper's own functions hold header and table against each other.
//!
//! Deliberately absent: the pages; whatever they hold is a guest's business.

use atoll_keeper::fuzz;

use super::Target;

pub(super) const TARGET: Target = Target {
    name: "memory-diff",
    seeds: &[b"ATOLLMEM\x01\0\0\0\0\x10\0\0", b"7f0000000000-7f0000010000 rw-p 00000000 fe:00 1 /memory.raw\n"],
    dictionary: &[b"ATOLLMEM", b"\x01\0\0\0", b"\0\x10\0\0", b" rw-p ", b"-", b" 1 ", b"\n"],
    memory: 32 << 20,
    run,
};

fn run(input: &[u8]) {
    fuzz::memory_diff(input);
    fuzz::maps(input);
    // Header and table alone are shorter than any page.
    let mut page = input.get(..input.len().min(4096)).unwrap_or_default().to_vec();
    page.resize(4096, 0);
    page.extend(input.get(4096..).unwrap_or_default());
    fuzz::memory_diff(&page);
}
