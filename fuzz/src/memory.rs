//! How much memory an input costs.
//!
//! How it works: the system's allocator with a count of what is held now and the most that was held. An input that makes
//! the peak grow by more than a target allows has failed: caps on lengths are there so that it cannot.
//!
//! Deliberately absent: memory that is mapped without the allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, counted.
struct Counted;

#[global_allocator]
static ALLOCATOR: Counted = Counted;

// SAFETY: every call goes to the system's allocator unchanged; only numbers are kept beside it.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller's promise about the layout is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise about memory and layout is passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Begins a measurement: answers what is held.
pub(crate) fn begin() -> usize {
    let held = HELD.load(Ordering::Relaxed);
    PEAK.store(held, Ordering::Relaxed);
    held
}

/// The most that was held beyond `begun` since [`begin`].
pub(crate) fn peak_since(begun: usize) -> usize {
    PEAK.load(Ordering::Relaxed).saturating_sub(begun)
}
