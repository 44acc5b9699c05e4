//! Keepers on this machine, found by their command line.
//!
//! How it works: a keeper is started as `atoll-keeper-<digest> --sandbox ID --dir DIR`, and DIR lies in one data directory alone, so
//! its name is enough to know whose it is. The program of an older build goes when no process runs it any more.
//!
//! Deliberately absent: VMMs; each dies with its keeper.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What the names of their programs begin with.
pub(crate) const PROGRAM: &str = "atoll-keeper-";

/// A file, by device and inode: names are those of the mount namespace that one looks from.
type Inode = (u64, u64);

/// Removes the programs in a directory that no keeper runs, but for the newest, which this Atoll starts.
///
/// # Errors
/// What the file system says. Where a single process cannot be looked at, none is removed.
pub(crate) fn remove_unused(bin: &Path, newest: &Path) -> io::Result<()> {
    let older = older(bin, newest)?;
    if older.is_empty() {
        return Ok(());
    }
    remove_but(older, &running()?)
}

fn older(bin: &Path, newest: &Path) -> io::Result<Vec<PathBuf>> {
    let mut older = Vec::new();
    for entry in fs::read_dir(bin)? {
        let entry = entry?;
        let path = entry.path();
        if path != newest && entry.file_name().as_encoded_bytes().starts_with(PROGRAM.as_bytes()) {
            older.push(path);
        }
    }
    Ok(older)
}

fn remove_but(programs: Vec<PathBuf>, running: &HashSet<Inode>) -> io::Result<()> {
    for path in programs {
        let program = fs::metadata(&path)?;
        if !running.contains(&(program.dev(), program.ino())) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// The programs of all processes.
fn running() -> io::Result<HashSet<Inode>> {
    let mut programs = HashSet::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        if entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()).is_none() {
            continue;
        }
        match fs::metadata(entry.path().join("exe")) {
            Ok(program) => {
                programs.insert((program.dev(), program.ino()));
            }
            // A thread of the kernel's, or a process that has ended.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(programs)
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_stays_while_a_process_runs_it_and_the_newest_always() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for name in ["atoll-keeper-old", "atoll-keeper-newest", "other"] {
            fs::write(at(name), "program").unwrap();
        }
        // Looked at as what it leads to: the program of this very process.
        let own = std::env::current_exe().unwrap();
        std::os::unix::fs::symlink(&own, at("atoll-keeper-run")).unwrap();
        let inode = fs::metadata("/proc/self/exe").unwrap();
        let running = HashSet::from([(inode.dev(), inode.ino())]);
        remove_but(older(dir.path(), &at("atoll-keeper-newest")).unwrap(), &running).unwrap();
        let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["atoll-keeper-newest", "atoll-keeper-run", "other"]);
    }
}
