//! The writable disk of one sandbox.
//!
//! How it works: an empty ext4 of the asked size is formatted once per size and kept in the cache; a sandbox gets a copy
//! of it that costs only its few allocated blocks: a reflink where the file system has it, else a copy of the data
//! extents. The guest joins it with the base image by overlayfs.
//!
//! Deliberately absent: reading it again on the host. What a guest wrote is hostile.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use nix::unistd::{Whence, lseek};

use crate::command::Tool;
use crate::{Cache, DiskError, Silent};

/// How a disk's bytes got there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyMethod {
    /// Shared extents.
    Reflink,
    /// Copied data extents; holes stayed holes.
    Sparse,
}

/// Makes the disk at `path`, `size_mb` MiB large, readable and writable by its owner alone.
///
/// # Errors
/// A full disk, a missing `mke2fs`, or what the file system says.
pub fn create_cow(cache: &Cache, path: &Path, size_mb: u32) -> Result<CopyMethod, DiskError> {
    let key = format!("{size_mb}m-v1");
    let (dir, _) = cache.ensure("cow", &key, |dir| format_empty(&dir.join("empty.ext4"), size_mb))?;
    let source_path = dir.join("empty.ext4");
    let source = File::open(&source_path).map_err(DiskError::file("read", &source_path))?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let target = options.open(path).map_err(DiskError::file("create", path))?;
    if clone_file(&source, &target) {
        return Ok(CopyMethod::Reflink);
    }
    copy_sparse(source, target).map_err(DiskError::file("write", path))?;
    Ok(CopyMethod::Sparse)
}

/// Copies a disk to a new file that is lasting when this returns ([`copy_disk`]).
///
/// # Errors
/// A full disk, or what the file system says.
pub fn copy_disk_lasting(from: &Path, to: &Path) -> Result<CopyMethod, DiskError> {
    let method = copy_disk(from, to)?;
    let copied = File::open(to).map_err(DiskError::file("read", to))?;
    copied.sync_all().map_err(DiskError::file("sync", to))?;
    Ok(method)
}

/// Copies a disk to a new file: by shared extents where the file system has them, else its data extents. A power cut may undo it.
///
/// # Errors
/// A full disk, or what the file system says.
pub fn copy_disk(from: &Path, to: &Path) -> Result<CopyMethod, DiskError> {
    let source = File::open(from).map_err(DiskError::file("read", from))?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let target = options.open(to).map_err(DiskError::file("create", to))?;
    if clone_file(&source, &target) {
        return Ok(CopyMethod::Reflink);
    }
    copy_sparse(source, target).map_err(DiskError::file("write", to))?;
    Ok(CopyMethod::Sparse)
}

/// The digest of a disk, whatever of it is allocated: BLAKE3 over each block of 64 KiB that is not all zeroes, its offset in front, and
/// the length last; and that length. What is a hole is not read, so a large disk with little in it costs little.
///
/// # Errors
/// What the file system says.
pub fn disk_digest(path: &Path) -> Result<([u8; 32], u64), DiskError> {
    disk_digest_while(path, &|| true)
}

/// The same, as long as `go_on` says so; it is asked between blocks.
///
/// # Errors
/// As [`disk_digest`], and [`DiskError::Cancelled`].
pub fn disk_digest_while(path: &Path, go_on: &dyn Fn() -> bool) -> Result<([u8; 32], u64), DiskError> {
    let file = File::open(path).map_err(DiskError::file("read", path))?;
    let digested = digest_blocks(&file, go_on).map_err(DiskError::file("read", path))?;
    digested.ok_or(DiskError::Cancelled)
}

/// None when it was called off.
fn digest_blocks(file: &File, go_on: &dyn Fn() -> bool) -> std::io::Result<Option<([u8; 32], u64)>> {
    use std::os::unix::fs::FileExt as _;
    const BLOCK: u64 = 64 * 1024;
    let length = file.metadata()?.len();
    let (mut hasher, mut block) = (blake3::Hasher::new(), vec![0; 64 * 1024]);
    let mut at = 0;
    while at < length {
        if !go_on() {
            return Ok(None);
        }
        let data = match lseek(file, i64::try_from(at).unwrap_or(i64::MAX), Whence::SeekData) {
            Ok(offset) => offset.unsigned_abs() / BLOCK * BLOCK,
            Err(nix::errno::Errno::ENXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        at = at.max(data);
        let piece = &mut block[..usize::try_from(BLOCK.min(length - at)).unwrap_or(0)];
        file.read_exact_at(piece, at)?;
        if piece.iter().any(|byte| *byte != 0) {
            hasher.update(&at.to_le_bytes());
            hasher.update(piece);
        }
        at += BLOCK;
    }
    hasher.update(&length.to_le_bytes());
    Ok(Some((*hasher.finalize().as_bytes(), length)))
}

fn format_empty(path: &Path, size_mb: u32) -> Result<String, DiskError> {
    let file = File::create(path).map_err(DiskError::file("create", path))?;
    file.set_len(u64::from(size_mb) << 20).map_err(DiskError::file("size", path))?;
    // Small disks take a small journal; without resize_inode and with lazy tables under 1 MiB is allocated.
    let journal = if size_mb < 256 { "size=4" } else { "size=8" };
    let lazy = "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0";
    let words =
        ["-q", "-F", "-t", "ext4", "-m", "0", "-O", "^resize_inode", "-J", journal, "-E", lazy, "-L", "atoll-cow"];
    let mut args: Vec<String> = words.into_iter().map(str::to_owned).collect();
    args.push(path.display().to_string());
    let limit = Duration::from_secs(60);
    let tool = Tool { program: "mke2fs", package: "e2fsprogs", args, envs: vec![], cwd: None, limit, contained: false };
    tool.run(&Silent)?;
    Ok(format!("empty disk of {size_mb} MiB"))
}

/// Whether files in a directory can share extents.
pub fn reflink_supported(dir: &Path) -> bool {
    let (a, b) = (dir.join(".atoll-reflink-a"), dir.join(".atoll-reflink-b"));
    let tried = fs::write(&a, [0; 4096]).and_then(|()| Ok((File::open(&a)?, File::create(&b)?)));
    let works = tried.is_ok_and(|(source, target)| clone_file(&source, &target));
    for path in [a, b] {
        // Left over only when it could not be made.
        let _ = fs::remove_file(path);
    }
    works
}

/// Bytes that a file really takes on its disk.
///
/// # Errors
/// What the file system says.
pub fn allocated_bytes(path: &Path) -> Result<u64, DiskError> {
    let meta = fs::metadata(path).map_err(DiskError::file("read", path))?;
    Ok(meta.blocks() * 512)
}

pub(crate) fn clone_file(source: &File, target: &File) -> bool {
    rustix::fs::ioctl_ficlone(target, source).is_ok()
}

pub(crate) fn copy_sparse(mut source: File, mut target: File) -> std::io::Result<()> {
    let length = source.metadata()?.len();
    target.set_len(length)?;
    let end = i64::try_from(length).unwrap_or(i64::MAX);
    let mut at = 0;
    while at < end {
        let data = match lseek(&source, at, Whence::SeekData) {
            Ok(offset) => offset,
            Err(nix::errno::Errno::ENXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let hole = lseek(&source, data, Whence::SeekHole)?;
        let (from, bytes) = (data.unsigned_abs(), (hole - data).unsigned_abs());
        source.seek(SeekFrom::Start(from))?;
        target.seek(SeekFrom::Start(from))?;
        let copied = std::io::copy(&mut (&mut source).take(bytes), &mut target)?;
        if copied != bytes {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof));
        }
        at = hole;
    }
    target.flush()
}
