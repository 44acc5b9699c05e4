//! Files that are not the attacker's.

use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::{Outcome, Plan, any, outcome};

/// In every tree; no program, because one that runs cannot be written anyway.
pub(crate) const FIRMWARE: &str = "/usr/share/qemu/pvh.bin";
const FILL: u64 = 64 << 20;

/// A path as it is, and through whatever may lead out.
fn ways(path: &Path) -> Vec<PathBuf> {
    let rest = path.strip_prefix("/").unwrap();
    let through = ["/proc/1/root", "/proc/self/root/../../..", "/proc/self/cwd/../../.."];
    [path.to_owned()].into_iter().chain(through.map(|way| Path::new(way).join(rest))).collect()
}

/// Reads a file that holds `secret`.
pub(crate) fn read(path: &Path) -> Outcome {
    any(ways(path).iter().map(|way| match fs::read(way) {
        Ok(bytes) if bytes == b"secret" => Ok("read".into()),
        Ok(_) => Err("something else".into()),
        Err(error) => Err(error.kind().to_string()),
    }))
}

/// Changes a file by its path, or through the descriptor that a VMM has of it. As root outside nothing but the plan's own
/// files may be touched.
pub(crate) fn write(plan: &Plan, path: &Path, own: Option<RawFd>) -> Outcome {
    assert!(path.starts_with(&plan.root), "{} is not the test's", path.display());
    let tried = [Some(path.to_owned()), own.map(|fd| format!("/proc/self/fd/{fd}").into())];
    let by_path = tried.into_iter().flatten().map(|path| {
        let file = OpenOptions::new().write(true).open(path).map_err(|e| e.kind().to_string())?;
        change(std::os::fd::AsRawFd::as_raw_fd(&file))
    });
    any(by_path.chain(own.map(change)))
}

/// Opens a file of the VMM's tree for writing; if that works it has worked, and nothing is changed.
pub(crate) fn write_tree(plan: &Plan, inside: bool) -> Outcome {
    let tried = if inside { ways(Path::new(FIRMWARE)) } else { vec![plan.tree.clone()] };
    any(tried.iter().map(|path| {
        let opened = OpenOptions::new().write(true).open(path);
        opened.map(|_| "opened for writing".into()).map_err(|e| e.kind().to_string())
    }))
}

/// Tries to change a file through a descriptor. One way that works is enough: the others are not tried then.
fn change(fd: RawFd) -> Outcome {
    let ways: [fn(RawFd) -> Outcome; 3] = [write_byte, map_shared, punch];
    any(ways.iter().map(|way| way(fd)))
}

fn write_byte(fd: RawFd) -> Outcome {
    // SAFETY: the buffer lives across the call.
    outcome(unsafe { libc::pwrite(fd, [0_u8].as_ptr().cast(), 1, 4000) } as i64, "pwrite")
}

fn map_shared(fd: RawFd) -> Outcome {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: asks for a new mapping; the kernel checks.
    let mapped = unsafe { libc::mmap(std::ptr::null_mut(), 4096, access, libc::MAP_SHARED, fd, 0) };
    outcome(if mapped == libc::MAP_FAILED { -1 } else { 0 }, "mmap")
}

fn punch(fd: RawFd) -> Outcome {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: takes its arguments by value.
    outcome(i64::from(unsafe { libc::fallocate(fd, mode, 8192, 4096) }), "punch")
}

/// Writes 64 MiB somewhere, or makes its own disk larger than it may be.
pub(crate) fn fill(plan: &Plan, disk: Option<RawFd>) -> Outcome {
    // SAFETY: ignoring a signal installs no handler; the error is what counts.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let places = ["/", "/tmp", "/dev", "/dev/shm", "/run", "/var/tmp", "/boot", "/proc"].map(PathBuf::from);
    let places: Vec<PathBuf> = match disk {
        Some(_) => places.into(),
        None => vec![plan.scratch.clone()],
    };
    let written = places.iter().map(|place| fill_file(&place.join("filling")));
    let grown = disk.map(|fd| {
        let name = CString::new(plan.scratch.as_os_str().as_bytes()).unwrap();
        let beyond = i64::try_from(plan.memory_bytes).unwrap();
        // SAFETY: the name lives across the call, the rest is passed by value.
        unsafe {
            any([
                outcome(i64::from(libc::ftruncate(fd, 1 << 40)), "ftruncate"),
                outcome(i64::from(libc::fallocate(fd, 0, 0, 1 << 40)), "fallocate"),
                outcome(libc::pwrite(fd, [1_u8].as_ptr().cast(), 1, beyond) as i64, "pwrite"),
                outcome(i64::from(libc::mkdir(name.as_ptr(), 0o700)), "mkdir"),
            ])
        }
    });
    any(written.chain(grown))
}

fn fill_file(path: &Path) -> Outcome {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path);
    let file = file.as_mut().map_err(|e| e.kind().to_string())?;
    let piece = vec![1; 1 << 20];
    let written = (0..FILL >> 20).try_for_each(|_| file.write_all(&piece));
    fs::remove_file(path).map_err(|e| e.kind().to_string())?;
    written.map(|()| "64 MiB".into()).map_err(|e| e.kind().to_string())
}
