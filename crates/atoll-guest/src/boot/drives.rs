//! Finds a disk by the serial that the host gave it, whatever order it came in.
//!
//! How it works: `/sys/block/*/serial` is looked at until the disk is there, for ten seconds at most.
//!
//! Deliberately absent: partitions: a disk is one file system.

use std::{
    fs, io,
    path::PathBuf,
    time::{Duration, Instant},
};

use super::BootError;

/// How long a disk may take to appear.
const PATIENCE: Duration = Duration::from_secs(10);

/// The device node of the disk with a serial.
pub(crate) fn find(serial: &str) -> Result<PathBuf, BootError> {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(name) = look(serial) {
            let device = PathBuf::from("/dev").join(name);
            if device.exists() {
                return Ok(device);
            }
        }
        if Instant::now() > until {
            let missing = format!("no disk has the serial `{serial}`");
            return Err(BootError::new("finding the disks", io::Error::new(io::ErrorKind::NotFound, missing)));
        }
        // Nothing tells of a new disk this early; the boot runs alone.
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn look(serial: &str) -> Option<std::ffi::OsString> {
    fs::read_dir("/sys/block").ok()?.filter_map(Result::ok).find_map(|entry| {
        let found = fs::read_to_string(entry.path().join("serial")).ok()?;
        (found.trim() == serial).then(|| entry.file_name())
    })
}
