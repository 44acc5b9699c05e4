//! The key under which requests are digested.
//!
//! How it works: 32 random bytes in `keys/requests` of the data directory, its owner's alone, made at the first start that misses it and
//! renamed into place, so that it is there whole or not at all.
//!
//! Deliberately absent: rotation. With another key an idempotency key of the last day is taken for another request's.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use atoll_control::RequestKey;

/// Reads it, or makes it.
pub(crate) fn open(data: &Path) -> Result<RequestKey> {
    let path = data.join("keys/requests");
    let bytes = match fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => make(&path),
        other => other.map_err(anyhow::Error::from),
    };
    let bytes = bytes.with_context(|| format!("cannot use {}", path.display()))?;
    match <[u8; 32]>::try_from(bytes) {
        Ok(key) => Ok(RequestKey::new(key)),
        Err(_) => bail!("{} does not hold a key of 32 bytes: remove it, and a new one is made", path.display()),
    }
}

fn make(path: &Path) -> Result<Vec<u8>> {
    let mut key = vec![0; 32];
    getrandom::fill(&mut key).context("no random bytes")?;
    let temporary = path.with_extension("tmp");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(&key)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    let dir = path.parent().context("a file lies in a directory")?;
    File::open(dir)?.sync_all()?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn it_is_made_once_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("keys")).unwrap();
        let path = dir.path().join("keys/requests");
        open(dir.path()).unwrap();
        let key = fs::read(&path).unwrap();
        open(dir.path()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), key);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::write(&path, b"short").unwrap();
        assert!(open(dir.path()).unwrap_err().to_string().contains("32 bytes"));
    }
}
