//! Folders as one stream of bytes, between this machine and a sandbox.
//!
//! How it works: the tar format that GNU's and busybox' `tar` both write and read: blocks of 512 bytes, long names in entries of their
//! own. [`header`] reads and writes blocks and knows no files; [`pack`] walks a folder here; [`unpack`] writes what a sandbox sent,
//! which is hostile, below one directory and nowhere else.
//!
//! Deliberately absent: owners, devices, extended attributes, compression. Names, modes, times and links inside are kept.

mod header;
mod pack;
mod unpack;

pub(crate) use pack::{Piece, pack};
pub(crate) use unpack::Unpack;

/// Size of a block.
const BLOCK: usize = 512;

/// What is wrong with an archive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    /// Not the format.
    #[error("the sandbox sent no archive: {0}")]
    Malformed(&'static str),
    /// A name that leads elsewhere.
    #[error("the sandbox sent `{0}`, which leads out of the target; nothing more was taken")]
    Escapes(String),
    /// A kind of entry that is not taken.
    #[error("the sandbox sent `{0}`, which is no file, directory or link inside; nothing more was taken")]
    Refused(String),
    /// This machine.
    #[error("cannot write `{path}`")]
    Write {
        /// Below the target.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// This machine.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It stopped in the middle.
    #[error("the archive ends in the middle")]
    Cut,
}
