//! What of an object is looked at before a sandbox starts from it.
//!
//! How it works: device state and memory are verified as they are loaded; here are the two files that are not loaded: the disk, which is
//! copied, and the sources, which say what the VM was started from. When the disk has been written, how it looks is noted beside
//! it ([`crate::stamp`]); as long as it looks the same its length alone is compared with the manifest, and it is read when not.
//!
//! Deliberately absent: the files that the sources name ([`crate::sources`]).

use std::fs::{self, File};
use std::io;
use std::path::Path;

use atoll_domain::host::HostError;
use atoll_domain::objects::ObjectId;
use atoll_domain::snapshot::Manifest;

use crate::data_dir::put;
use crate::error::from_disk;
use crate::journal::{Base, Sources};
use crate::objects::{DISK, SOURCES};
use crate::stamp::Stamp;

/// How the disk looked when it was read last.
const LOOK: &str = "disk.look";

fn damaged(what: &dyn std::fmt::Display) -> HostError {
    HostError::Damaged(what.to_string())
}

/// Notes how an object's disk looks, whose bytes are known. Blocks.
pub(crate) fn note_disk(object: &Path) -> io::Result<()> {
    let look = Stamp::of(&File::open(object.join(DISK))?)?;
    put(&object.join(LOOK), &serde_json::to_vec(&look)?, 0o600)
}

/// The disk of an object holds what its manifest says. Blocks, for long if it must be read.
pub(crate) fn disk(object: &Path, manifest: &Manifest) -> Result<(), HostError> {
    let part = manifest.parts.disk.ok_or_else(|| damaged(&"the manifest names no disk"))?;
    let path = object.join(DISK);
    let look = File::open(&path).and_then(|file| Stamp::of(&file)).map_err(|e| damaged(&format!("the disk: {e}")))?;
    if look.bytes() != part.bytes {
        return Err(damaged(&"the disk does not have the length that it must"));
    }
    let noted = fs::read(object.join(LOOK)).ok().and_then(|text| serde_json::from_slice(&text).ok());
    if noted == Some(look) {
        return Ok(());
    }
    if atoll_disk::disk_digest(&path).map_err(from_disk)?.0 != part.digest.0 {
        return Err(damaged(&"the disk does not hold what it must"));
    }
    if let Err(error) = note_disk(object) {
        tracing::debug!(%error, "how a disk looks could not be noted; it is read again next time");
    }
    Ok(())
}

/// What an object's VM was started from, as far as the manifest says it, too. Blocks for a small file.
pub(crate) fn sources(object: &Path, id: &ObjectId, manifest: &Manifest) -> Result<Sources, HostError> {
    let text = fs::read(object.join(SOURCES)).map_err(|e| damaged(&format!("{SOURCES}: {e}")))?;
    let sources: Sources = serde_json::from_slice(&text).map_err(|_| damaged(&format!("{SOURCES} is malformed")))?;
    if sources.origin != manifest.origin || sources.base != (Base::Object { id: id.clone() }) {
        return Err(damaged(&format!("{SOURCES} does not say what the manifest does")));
    }
    Ok(sources)
}
