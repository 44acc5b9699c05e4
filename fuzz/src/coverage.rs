//! Which edges of the program an input reached.
//!
//! How it works: a build with LLVM's `sancov-module` pass and inline 8-bit counters (stable flags, set by `cargo xtask soak`)
//! calls [`__sanitizer_cov_8bit_counters_init`] once per object file with the range of its counters. Before an input they
//! are cleared, afterwards their values, rounded to powers of two, are compared with all that was seen.
//!
//! Deliberately absent: a build without that pass; it has no counters, and fuzzing is blind but works.

use std::sync::Mutex;

/// Counters that are looked at together.
const EIGHT: usize = 8;
/// `(address, length)` of the counters of each object file.
static RANGES: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());

/// Called by the constructors that the compiler pass adds.
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, stop: *mut u8) {
    let (start, stop) = (start as usize, stop as usize);
    if let Ok(mut ranges) = RANGES.lock()
        && stop > start
        && !ranges.contains(&(start, stop - start))
    {
        ranges.push((start, stop - start));
    }
}

/// Called beside it with the table of program counters, which are of no use here.
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_pcs_init(_start: *const usize, _stop: *const usize) {}

/// What was seen so far, one byte of bits for each counter.
#[derive(Debug)]
pub(crate) struct Seen {
    ranges: Vec<(usize, usize)>,
    bits: Vec<u8>,
}

impl Seen {
    /// Nothing seen yet.
    pub(crate) fn new() -> Self {
        let ranges = RANGES.lock().map(|ranges| ranges.clone()).unwrap_or_default();
        let all = ranges.iter().map(|(_, length)| length).sum();
        Self { ranges, bits: vec![0; all] }
    }

    /// How many edges the build counts; 0 means that fuzzing is blind.
    pub(crate) fn edges(&self) -> usize {
        self.bits.len()
    }

    /// How many of them were reached.
    pub(crate) fn reached(&self) -> usize {
        self.bits.iter().filter(|bits| **bits != 0).count()
    }

    /// Clears the counters before an input.
    pub(crate) fn clear(&self) {
        for (start, length) in &self.ranges {
            // SAFETY: the range is the counters' section, which lives as long as the program; a counter that another
            // thread raises meanwhile is a lost count at worst.
            unsafe { std::ptr::write_bytes(*start as *mut u8, 0, *length) };
        }
    }

    /// Whether the last input reached something new, by edge or by how often (in powers of two).
    pub(crate) fn grew(&mut self) -> bool {
        let (mut grew, mut base) = (false, 0);
        for (start, length) in &self.ranges {
            let mut offset = 0;
            while offset < *length {
                let piece = EIGHT.min(length - offset);
                // SAFETY: inside the counters' section, as above; unaligned, because a section may begin anywhere.
                let eight = || unsafe { std::ptr::read_unaligned((*start + offset) as *const u64) };
                // Nearly all counters are zero after an input.
                if piece == EIGHT && eight() == 0 {
                    offset += EIGHT;
                    continue;
                }
                for at in offset..offset + piece {
                    // SAFETY: inside the counters' section; volatile, because others may count meanwhile.
                    let count = unsafe { std::ptr::read_volatile((*start + at) as *const u8) };
                    let bit = if count == 0 { 0 } else { 1_u8 << count.ilog2() };
                    grew |= bit & !self.bits[base + at] != 0;
                    self.bits[base + at] |= bit;
                }
                offset += piece;
            }
            base += length;
        }
        grew
    }
}
