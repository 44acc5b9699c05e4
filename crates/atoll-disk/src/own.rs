//! A kernel and a root file system that the machine's owner brings, instead of Atoll's.
//!
//! How it works: the file is opened once and looked at through that descriptor, then its bytes are copied into the sandbox's directory (a
//! reflink where the file system can, else its data extents). From then on only the copy is used: what the owner does to the
//! file later changes no sandbox, and a restart of Atoll finds everything where the sandbox is. Of a root file system only the
//! superblock's magic and state are read.
//!
//! Deliberately absent: mounting, checking or resizing a file system on the host.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use crate::cow::{clone_file, copy_sparse};
use crate::{DiskError, extract_vmlinux};

/// Largest file that is taken for a kernel.
const MAX_KERNEL: u64 = 512 << 20;
/// Largest root file system, in apparent bytes.
const MAX_ROOTFS: u64 = 256 << 30;
/// Kept free on the disk that a copy goes to.
const RESERVE: u64 = 512 << 20;
const ELF: &[u8] = b"\x7fELF\x02";
const X86_64: [u8; 2] = [62, 0];
/// Where ext2, ext3 and ext4 keep their superblock, and how much of it is looked at.
const SUPERBLOCK: u64 = 1024;
const EXT_MAGIC: [u8; 2] = [0x53, 0xef];
/// The journal has to be replayed, which a guest cannot do on a disk that it may only read.
const NEEDS_RECOVERY: u32 = 4;

/// Copies a kernel to `target`: an ELF image as it is, a bzImage unpacked.
///
/// # Errors
/// [`DiskError::Unusable`] naming `kernel`, a full disk, or what the file system says.
pub fn take_kernel(source: &Path, target: &Path) -> Result<(), DiskError> {
    let unusable = |why: String| DiskError::Unusable { field: "kernel", path: source.to_owned(), why };
    let (file, bytes) = open(source, "kernel", MAX_KERNEL)?;
    let mut image = Vec::new();
    // One byte more shows a file that grew meanwhile.
    (&file).take(bytes + 1).read_to_end(&mut image).map_err(DiskError::file("read", source))?;
    if !image.starts_with(ELF) {
        image = extract_vmlinux(&image).map_err(|_| {
            unusable(
                "it is neither an uncompressed ELF image (vmlinux) nor a bzImage that is compressed with LZ4".into(),
            )
        })?;
    }
    if image.get(18..20) != Some(X86_64.as_slice()) {
        return Err(unusable("it is no program of x86-64".into()));
    }
    let mut out = create(target)?;
    out.write_all(&image).map_err(DiskError::file("write", target))?;
    // The VMM reads it as its own user, through a mount that leads to this file alone.
    fs::set_permissions(target, fs::Permissions::from_mode(0o444)).map_err(DiskError::file("set the mode of", target))
}

/// Copies an ext4 image to `target`; answers its apparent bytes.
///
/// # Errors
/// [`DiskError::Unusable`] naming `rootfs`, a full disk, or what the file system says.
pub fn take_rootfs(source: &Path, target: &Path) -> Result<u64, DiskError> {
    let unusable = |why: &str| DiskError::Unusable { field: "rootfs", path: source.to_owned(), why: why.into() };
    let (file, bytes) = open(source, "rootfs", MAX_ROOTFS)?;
    let mut superblock = [0; 128];
    match file.read_exact_at(&mut superblock, SUPERBLOCK) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Err(unusable("it is too short")),
        other => other.map_err(DiskError::file("read", source))?,
    }
    if superblock.get(56..58) != Some(EXT_MAGIC.as_slice()) {
        return Err(unusable("it holds no ext4 file system (an image of a whole disk with partitions is none)"));
    }
    let features = superblock.get(96..100).and_then(|field| field.try_into().ok()).map_or(0, u32::from_le_bytes);
    if features & NEEDS_RECOVERY != 0 {
        return Err(unusable("it was not unmounted; run `e2fsck` on it first"));
    }
    let out = create(target)?;
    if !clone_file(&file, &out) {
        let needed = file.metadata().map_err(DiskError::file("read", source))?.blocks() * 512;
        let free = rustix::fs::fstatvfs(&out).map_err(|errno| DiskError::file("look at", target)(errno.into()))?;
        if needed + RESERVE > free.f_bavail * free.f_frsize {
            return Err(DiskError::NoSpace { path: target.to_owned() });
        }
        copy_sparse(file, out).map_err(DiskError::file("write", target))?;
    }
    Ok(bytes)
}

/// The file behind a path that somebody gave, and its length.
fn open(path: &Path, field: &'static str, most: u64) -> Result<(File, u64), DiskError> {
    let unusable = |why: String| DiskError::Unusable { field, path: path.to_owned(), why };
    // A FIFO or a device must not hold this up.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => unusable("there is no such file".into()),
        _ => unusable(format!("it cannot be opened: {error}")),
    })?;
    let meta = file.metadata().map_err(DiskError::file("read", path))?;
    if !meta.is_file() {
        return Err(unusable("it is no regular file".into()));
    }
    if meta.len() == 0 {
        return Err(unusable("it is empty".into()));
    }
    if meta.len() > most {
        return Err(unusable(format!("it has {} MiB; at most {}", meta.len() >> 20, most >> 20)));
    }
    Ok((file, meta.len()))
}

/// The copy; one that an earlier try left is overwritten.
fn create(path: &Path) -> Result<File, DiskError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(DiskError::file("remove", path)(error)),
        _ => {}
    }
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path).map_err(DiskError::file("create", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why<T: std::fmt::Debug>(result: Result<T, DiskError>) -> (&'static str, String) {
        match result {
            Err(DiskError::Unusable { field, why, .. }) => (field, why),
            other => panic!("{other:?}"),
        }
    }

    fn ext4(features: u32) -> Vec<u8> {
        let mut image = vec![0; 8192];
        image[1024 + 56..1024 + 58].copy_from_slice(&EXT_MAGIC);
        image[1024 + 96..1024 + 100].copy_from_slice(&features.to_le_bytes());
        image
    }

    #[test]
    fn what_is_no_kernel_is_refused_by_what_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (source, target) = (dir.path().join("k"), dir.path().join("taken"));
        assert_eq!(why(take_kernel(&source, &target)), ("kernel", "there is no such file".into()));
        assert!(why(take_kernel(dir.path(), &target)).1.contains("no regular file"));
        nix::unistd::mkfifo(&source, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(why(take_kernel(&source, &target)).1.contains("no regular file"), "and nothing waits for a writer");
        fs::remove_file(&source).unwrap();
        for (content, expected) in
            [(&b""[..], "empty"), (b"#!/bin/sh", "neither"), (b"\x7fELF\x02\x01\x01aaaaaaaaaaaaaaaaaaaa", "x86-64")]
        {
            fs::write(&source, content).unwrap();
            let said = why(take_kernel(&source, &target)).1;
            assert!(said.contains(expected), "{said}");
        }
        let mut elf = b"\x7fELF\x02".to_vec();
        elf.resize(18, 0);
        elf.extend(X86_64);
        fs::write(&source, &elf).unwrap();
        take_kernel(&source, &target).unwrap();
        assert_eq!(fs::read(&target).unwrap(), elf);
    }

    #[test]
    fn a_root_file_system_is_copied_and_stays_what_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (source, target) = (dir.path().join("r"), dir.path().join("taken"));
        for (content, expected) in
            [(vec![1; 100], "short"), (vec![0; 8192], "no ext4"), (ext4(NEEDS_RECOVERY), "e2fsck")]
        {
            fs::write(&source, content).unwrap();
            let (field, said) = why(take_rootfs(&source, &target));
            assert!(field == "rootfs" && said.contains(expected), "{said}");
        }
        let image = ext4(0x2c2);
        fs::write(&source, &image).unwrap();
        assert_eq!(take_rootfs(&source, &target).unwrap(), 8192);
        fs::write(&source, b"changed").unwrap();
        assert_eq!(fs::read(&target).unwrap(), image);
    }
}
