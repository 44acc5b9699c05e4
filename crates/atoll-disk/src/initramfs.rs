//! The initramfs: the guest agent as `/init` and the modules that it loads.
//!
//! How it works: a cpio archive in the "newc" form, written here; not compressed, because unpacking costs an emulated
//! guest more than reading. The same input gives the same bytes, whole pages of them: see [`PAGE`].
//!
//! Deliberately absent: anything else of an operating system; the base image has that.

use std::fs;
use std::path::PathBuf;

use crate::image::write;
use crate::{Cache, DiskError, Kernel};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const CONSOLE: u32 = 0o020_600;
/// QEMU puts an initrd at the very end of memory, where SeaBIOS keeps the ACPI tables: with some lengths (3,841,272 bytes, and 4, 4,096
/// or 8,192 more) guests found no tables and so no device. A VMM of ours begins with qboot, which keeps them elsewhere; whole
/// pages leave the last page free under either.
const PAGE: usize = 4096;

/// The initramfs of a kernel and a guest agent, written if it is not in the cache.
///
/// # Errors
/// What the file system says.
pub fn ensure_initramfs(cache: &Cache, kernel: &Kernel, guest: &[u8]) -> Result<PathBuf, DiskError> {
    let mut modules = Vec::new();
    for path in &kernel.modules {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        modules.push((name, fs::read(path).map_err(DiskError::file("read", path))?));
    }
    let archive = cpio(guest, &modules);
    let key = blake3::hash(&archive).to_hex()[..32].to_owned();
    let (dir, _) = cache.ensure("initramfs", &key, |dir| {
        write(&dir.join("initramfs"), &archive)?;
        Ok(format!("guest agent and modules of {}", kernel.release))
    })?;
    Ok(dir.join("initramfs"))
}

/// Writes the archive: `/init`, `/modules/<name>` for each module, and the mount points.
pub fn cpio(init: &[u8], modules: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = Writer::default();
    for dir in ["dev", "proc", "sys", "modules", "base", "cow", "root"] {
        archive.entry(dir, DIRECTORY, 0, &[]);
    }
    archive.entry("dev/console", CONSOLE, 0x0501, &[]);
    archive.entry("init", PROGRAM, 0, init);
    for (name, bytes) in modules {
        archive.entry(&format!("modules/{name}"), FILE, 0, bytes);
    }
    archive.entry("TRAILER!!!", 0, 0, &[]);
    archive.bytes.resize(archive.bytes.len().next_multiple_of(PAGE), 0);
    archive.bytes
}

#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    inode: u32,
}

impl Writer {
    /// Appends one member; `device` is major << 8 | minor of a character device.
    fn entry(&mut self, name: &str, mode: u32, device: u32, data: &[u8]) {
        self.inode += 1;
        let links = if mode == DIRECTORY { 2 } else { 1 };
        let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let fields = [self.inode, mode, 0, 0, links, 0, size, 0, 0, device >> 8, device & 0xff, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}
