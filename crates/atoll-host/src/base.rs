//! A memory base as a file, checked before anything is made from it.
//!
//! How it works: an empty one holds nothing that could be checked. One of the sandbox's own is read again when it looks another than it did when it
//! was written ([`crate::stamp`]); a shared one is read whole, because what is made from it is signed anew.
//!
//! Deliberately absent: starting a VM from a shared one; that maps the sealed copy in memory ([`crate::objects::Objects::sealed_base`]).

use std::fs::File;
use std::path::Path;

use atoll_domain::host::HostError;

use crate::error::failed;
use crate::generation::EMPTY_BASE;
use crate::journal::Base;
use crate::objects::{MEMORY, Objects};
use crate::stamp::unchanged;

/// Opens the base of a sandbox's directory. Blocks, for long if it must be read.
pub(crate) fn open(objects: &Objects, dir: &Path, base: &Base) -> Result<File, HostError> {
    match base {
        Base::Empty => File::open(dir.join(EMPTY_BASE)).map_err(|e| failed(&e)),
        Base::Own { file, digest, stamp } => unchanged(&dir.join(file), digest, *stamp),
        Base::Object { id } => {
            let none = || HostError::Damaged("the manifest names no memory image".into());
            let part = objects.manifest(id)?.parts.memory_base.ok_or_else(none)?;
            unchanged(&objects.path(id).join(MEMORY), &part.digest, None)
        }
    }
}
