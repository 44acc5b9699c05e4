//! The file tree that every VMM sees as its root.
//!
//! How it works: made once per state of the machine's QEMU (the key covers path, size and time of every file), in the cache:
//! QEMU, the libraries that its loader names, its accelerator module, firmware, and empty files and directories to mount over.
//! It holds nothing of any sandbox and is bound read-only.
//!
//! Deliberately absent: a shell, `/dev` nodes, configuration.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::KeeperError;

/// The VMM's program, outside and inside the tree.
pub const PROGRAM: &str = "/usr/bin/qemu-system-x86_64";
/// Where the kernel is bound in the tree.
pub const KERNEL: &str = "/boot/kernel";
/// Where the initramfs is bound in the tree.
pub const INITRD: &str = "/boot/initrd";

/// The firmware, by its place in the tree. qboot begins the kernel some 70 ms sooner than SeaBIOS; and SeaBIOS keeps the ACPI tables in
/// the last pages of memory, where the end of an initramfs is written over them.
pub const BIOS: &str = "/usr/share/qemu/qboot.rom";
/// Files that QEMU reads by itself: `(source, place in the tree)`; the first source that is there is taken.
const FIRMWARE: &[(&[&str], &str)] =
    &[(&[BIOS, "/usr/share/qboot/qboot.rom"], BIOS), (&["/usr/share/qemu/pvh.bin"], "/usr/share/qemu/pvh.bin")];
const MODULES: &[&str] = &["/usr/lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so", "/usr/lib/qemu/accel-tcg-x86_64.so"];

/// The tree for this machine's QEMU, made under `cache/trees/` if it is not there.
///
/// # Errors
/// [`KeeperError::QemuMissing`], or what the file system says.
pub fn ensure(cache: &Path) -> Result<PathBuf, KeeperError> {
    let files = files()?;
    let trees = cache.join("trees");
    let tree = trees.join(key(&files)?);
    if tree.exists() {
        return Ok(tree);
    }
    let temporary = trees.join(format!(".tmp-{}", std::process::id()));
    // Left by a build of an earlier process of this number, if at all.
    let _ = fs::remove_dir_all(&temporary);
    fs::create_dir_all(&temporary).map_err(KeeperError::file("create", &temporary))?;
    let built = fill(&temporary, &files);
    if let Err(error) = built {
        let _ = fs::remove_dir_all(&temporary);
        return Err(error);
    }
    match fs::rename(&temporary, &tree) {
        // Another process was quicker; both made the same.
        Err(_) if tree.exists() => {
            let _ = fs::remove_dir_all(&temporary);
            Ok(tree)
        }
        other => other.map(|()| tree.clone()).map_err(KeeperError::file("rename", &temporary)),
    }
}

fn files() -> Result<Vec<(PathBuf, PathBuf)>, KeeperError> {
    let program = Path::new(PROGRAM);
    if !program.exists() {
        return Err(KeeperError::QemuMissing { missing: PROGRAM.into() });
    }
    let mut out = vec![(program.to_owned(), program.to_owned())];
    for (sources, place) in FIRMWARE {
        let found = sources.iter().map(Path::new).find(|path| path.exists());
        let found = found.ok_or_else(|| KeeperError::QemuMissing { missing: (*place).into() })?;
        out.push((found.to_owned(), PathBuf::from(place)));
    }
    // A QEMU built without modules has its accelerators inside.
    let modules: Vec<&Path> = MODULES.iter().map(Path::new).filter(|path| path.exists()).collect();
    out.extend(modules.iter().map(|path| ((*path).to_owned(), (*path).to_owned())));
    for binary in [program].into_iter().chain(modules.first().copied()) {
        for library in libraries(binary)? {
            out.push((library.clone(), library));
        }
    }
    out.sort();
    out.dedup();
    Ok(out)
}

/// What the loader of a program names.
fn libraries(program: &Path) -> Result<Vec<PathBuf>, KeeperError> {
    let output = Command::new("ldd").arg(program).env("LC_ALL", "C").output();
    let output = output.map_err(KeeperError::step(format!("run ldd on {}", program.display())))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(words.map(PathBuf::from).collect())
}

/// A name that changes with any of the files.
fn key(files: &[(PathBuf, PathBuf)]) -> Result<String, KeeperError> {
    // FNV-1a: this names a state of the machine, it guards nothing.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for (source, place) in files {
        let meta = fs::metadata(source).map_err(KeeperError::file("read", source))?;
        let line = format!("{}|{}|{}|{}\n", source.display(), place.display(), meta.len(), meta.mtime());
        for byte in line.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    Ok(format!("qemu-{hash:016x}"))
}

fn fill(tree: &Path, files: &[(PathBuf, PathBuf)]) -> Result<(), KeeperError> {
    let inside = |path: &Path| tree.join(path.strip_prefix("/").unwrap_or(path));
    for (source, place) in files {
        let target = inside(place);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(KeeperError::file("create", parent))?;
        }
        fs::copy(source, &target).map_err(KeeperError::file("copy", source))?;
    }
    for dir in ["/proc", "/dev", "/boot"] {
        let dir = inside(Path::new(dir));
        fs::create_dir_all(&dir).map_err(KeeperError::file("create", &dir))?;
    }
    for file in [KERNEL, INITRD] {
        let file = inside(Path::new(file));
        fs::write(&file, b"").map_err(KeeperError::file("create", &file))?;
    }
    readable(tree)
}

/// Everybody may read, root alone owns: the VMM's uid is nobody's.
fn readable(path: &Path) -> Result<(), KeeperError> {
    let meta = fs::metadata(path).map_err(KeeperError::file("read", path))?;
    let program = meta.is_dir() || meta.permissions().mode() & 0o111 != 0;
    let mode = fs::Permissions::from_mode(if program { 0o755 } else { 0o644 });
    fs::set_permissions(path, mode).map_err(KeeperError::file("set the mode of", path))?;
    if meta.is_dir() {
        for entry in fs::read_dir(path).map_err(KeeperError::file("read", path))?.flatten() {
            readable(&entry.path())?;
        }
    }
    Ok(())
}
