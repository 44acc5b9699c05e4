//! A first start that was killed in its middle.
//!
//! How it works: the secrets of the first start are in memory between the database's commit and `admin.json`; killed there, nobody would
//! ever know them. So a mark is on disk from before the database is made until `admin.json` is written. A start that finds it begins
//! anew: no request was answered before, so the database holds nothing of anybody's.
//!
//! Deliberately absent: anything once the first start is over.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

const MARK: &str = "first-start";
const DATABASE: &str = "atoll.db";
/// What SQLite keeps beside it.
const BESIDE: [&str; 2] = ["atoll.db-wal", "atoll.db-shm"];

/// The start is known to be over when this is finished.
#[derive(Debug)]
pub(crate) struct FirstStart {
    mark: PathBuf,
}

/// Where the database is.
pub(crate) fn database(data: &Path) -> PathBuf {
    data.join(DATABASE)
}

/// Begins: undoes a first start that did not come to its end, and marks one that begins now.
pub(crate) fn begin(data: &Path) -> Result<FirstStart> {
    let mark = data.join(MARK);
    let failed = || format!("cannot prepare the database in {}", data.display());
    if mark.exists() {
        // The database last: as long as it is there, the mark is.
        for name in BESIDE.iter().chain([&DATABASE]) {
            remove(&data.join(name)).with_context(failed)?;
        }
    } else if !database(data).exists() {
        File::create(&mark).and_then(|file| file.sync_all()).with_context(failed)?;
        sync(data).with_context(failed)?;
    }
    Ok(FirstStart { mark })
}

impl FirstStart {
    /// Everything that it made is on disk.
    pub(crate) fn finish(self) -> Result<()> {
        // A mark that a power cut brought back would cost the database, whatever it holds by then.
        let removed = remove(&self.mark).and_then(|()| self.mark.parent().map_or(Ok(()), sync));
        removed.with_context(|| format!("cannot remove {}", self.mark.display()))
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_was_killed_begins_anew_and_one_that_was_not_keeps_its_database() {
        let dir = tempfile::tempdir().unwrap();
        let killed = begin(dir.path()).unwrap();
        fs::write(database(dir.path()), "half").unwrap();
        fs::write(dir.path().join("atoll.db-wal"), "half").unwrap();
        drop(killed);
        let again = begin(dir.path()).unwrap();
        assert!(!database(dir.path()).exists() && !dir.path().join("atoll.db-wal").exists());
        fs::write(database(dir.path()), "whole").unwrap();
        again.finish().unwrap();
        begin(dir.path()).unwrap().finish().unwrap();
        assert_eq!(fs::read(database(dir.path())).unwrap(), b"whole");
    }

    #[test]
    fn a_database_that_was_there_before_is_never_marked() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(database(dir.path()), "old").unwrap();
        drop(begin(dir.path()).unwrap());
        drop(begin(dir.path()).unwrap());
        assert_eq!(fs::read(database(dir.path())).unwrap(), b"old");
    }
}
