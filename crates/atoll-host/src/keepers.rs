//! Keepers on this machine, found by their command line.
//!
//! How it works: a keeper is started as `atoll-keeper-<digest> --sandbox ID --dir DIR`, and DIR lies in one data directory alone, so
//! its name is enough to know whose it is.
//!
//! Deliberately absent: VMMs; each dies with its keeper.

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Kills every keeper of a sandbox's directory.
pub(crate) fn kill_of(dir: &Path) {
    for pid in of(dir) {
        // Gone meanwhile is what is wanted; between reading and killing a pid cannot come round again.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// The keepers of a sandbox's directory.
pub(crate) fn of(dir: &Path) -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").map(|e| e.flatten().collect()).unwrap_or_else(|_| Vec::new());
    let pids = processes.iter().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| is_keeper_of(*pid, dir)).collect()
}

fn is_keeper_of(pid: i32, dir: &Path) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|b| *b == 0).collect();
    let dir = dir.as_os_str().as_encoded_bytes();
    matches!(words[..], [_, b"--sandbox", _, b"--dir", found, ..] if found == dir)
}
