//! Kernel modules: every file of a folder, in the order of their names.
//!
//! How it works: each file is given to `finit_module` and removed: an initramfs lives in memory. One that the kernel
//! refuses is told, and the boot goes on.
//!
//! Deliberately absent: dependencies; whoever packed the initramfs resolved them.
#![expect(unsafe_code, reason = "finit_module has no safe wrapper")]

use std::{
    fs::{self, File},
    io,
    os::fd::AsRawFd,
};

use super::{BootError, Step};
use crate::console;

/// Loads all modules, then removes their files: an initramfs lives in memory.
pub(crate) fn load(folder: &str) -> Result<(), BootError> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Ok(());
    };
    let mut files: Vec<_> = entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "ko"))
        .collect();
    files.sort();
    for path in files {
        let file = File::open(&path).step(&format!("opening {}", path.display()))?;
        match finit(&file) {
            Ok(()) => {}
            // Built in, loaded already, or for hardware that this machine lacks.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => {}
            Err(error) => {
                console::say(&format!("module {}: {error}", path.display()));
            }
        }
        let _ = fs::remove_file(&path);
    }
    Ok(())
}

fn finit(file: &File) -> io::Result<()> {
    // SAFETY: a valid descriptor and an empty parameter string.
    let result = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
