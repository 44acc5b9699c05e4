//! A guest's memory as files: a base, and what differs from it.
//!
//! How it works: guest memory is always a private mapping of a base, so the kernel itself knows which pages the guest changed
//! ([`pagemap`]). A snapshot writes those into a cumulative diff ([`diff`], [`capture`]), a restore puts them back into a
//! fresh mapping of the same base ([`inject`]), and [`flatten`] makes the two into a new base. A base with more than one user is
//! a write-sealed memfd ([`base`]).
//!
//! ```text
//!   base (flat, immutable) ──private mapping──> guest memory ──pages that are no longer the base's──> diff
//!        └────────────────────────── flatten ──────────────────────────────────────────────────────────┘
//! ```
//!
//! A page that became zero is a page that changed: it is written down as zero, or the base's old content would come back.
//!
//! Deliberately absent: device state (the VMM's own format, a file beside these) and compression.

pub mod base;
pub mod capture;
pub mod diff;
mod digest;
pub mod flatten;
pub mod inject;
pub mod pagemap;

pub use digest::{Digest, digest_of, digest_of_while};

/// Bytes of a page. Files say it too, so that a machine with other pages refuses them.
pub const PAGE: u64 = 4096;

/// The same as a length of buffers.
pub(crate) const PAGE_LEN: usize = 4096;

/// Bytes that are moved at once.
pub(crate) const PIECE: usize = 256 * 1024;
