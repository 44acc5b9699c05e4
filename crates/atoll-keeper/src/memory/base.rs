//! A base that several VMMs share.
//!
//! How it works: a memfd holds the flat image, its holes as holes, and is sealed against writing, growing, shrinking and further
//! seals; so no VMM can change what its neighbours start from, although QEMU opens it for writing. Its mode stays open
//! to all, because each VMM has a uid of its own and opens it through `/proc/self/fd`.
//!
//! Deliberately absent: a base of one owner alone; that is an ordinary file.

use std::fs::File;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::flatten::copy_data;
use crate::KeeperError;

/// Everything that a shared base must never lose.
fn seals() -> SealFlag {
    SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE
}

/// Loads a flat image into a sealed memfd. It costs its data as shared memory of whoever calls.
///
/// # Errors
/// When the image cannot be read or memory is short.
pub fn seal(image: &File) -> Result<File, KeeperError> {
    let length = image.metadata().map_err(KeeperError::step("read the memory base"))?.len();
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let memfd = memfd_create(c"atoll-memory", flags).map_err(KeeperError::errno("make a memory file"))?;
    let file = File::from(memfd);
    file.set_len(length).map_err(KeeperError::step("size the memory file"))?;
    copy_data(image, &file)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals())).map_err(KeeperError::errno("seal the memory file"))?;
    Ok(file)
}

/// Whether nobody can ever change the file.
pub fn is_sealed(file: &File) -> bool {
    let found = fcntl(file, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_truncate);
    found.is_ok_and(|found| found.contains(seals()))
}
