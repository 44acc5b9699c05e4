//! Keys of this Atoll that lie outside the database: `keys/NAME` in the data directory.
//!
//! How it works: 32 random bytes, its owner's alone, made at the first start that misses them and renamed into place, so that they are there
//! whole or not at all. `requests` digests requests, `secrets.key` seals secrets of sandboxes: a copy of the database alone opens nothing.
//!
//! Deliberately absent: rotation. With another `requests` an idempotency key of the last day is taken for another request's; what was sealed with
//! another `secrets.key` cannot be opened, which a resume says, and nothing else suffers.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use atoll_control::{RequestKey, SealingKey};

const DIRECTORY: &str = "keys";
const BYTES: usize = 32;

/// The key under which requests are digested.
pub(crate) fn requests(data: &Path) -> Result<RequestKey> {
    ensure(data, "requests").map(RequestKey::new)
}

/// The key under which secrets are sealed.
pub(crate) fn sealing(data: &Path) -> Result<SealingKey> {
    ensure(data, "secrets.key").map(SealingKey::new)
}

fn ensure(data: &Path, name: &str) -> Result<[u8; BYTES]> {
    let path = data.join(DIRECTORY).join(name);
    match fs::read(&path) {
        Ok(bytes) => match <[u8; BYTES]>::try_from(bytes) {
            Ok(key) => Ok(key),
            Err(bytes) => bail!(
                "{} holds {} bytes instead of {BYTES}: put the right file back, or move it away and a new one is made",
                path.display(),
                bytes.len()
            ),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut key = [0; BYTES];
            getrandom::fill(&mut key).context("the machine gives no random bytes")?;
            make(data, name, &key).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(key)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn make(data: &Path, name: &str, key: &[u8; BYTES]) -> io::Result<()> {
    let dir = data.join(DIRECTORY);
    match DirBuilder::new().mode(0o700).create(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let temporary = dir.join(format!("{name}.tmp"));
    // A leftover of a crash may have any mode; a new file has ours.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    out.write_all(key)?;
    out.sync_all()?;
    fs::rename(&temporary, dir.join(name))?;
    File::open(&dir)?.sync_all()?;
    File::open(data)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn each_is_made_once_private_and_a_broken_one_is_named_without_its_contents() {
        let dir = tempfile::tempdir().unwrap();
        let first = ensure(dir.path(), "one").unwrap();
        assert_eq!(ensure(dir.path(), "one").unwrap(), first);
        assert_ne!(ensure(dir.path(), "other").unwrap(), first);
        let path = dir.path().join("keys/one");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_file(&path).unwrap();
        assert_ne!(ensure(dir.path(), "one").unwrap(), first, "another key, and not none");
        fs::write(&path, "secret").unwrap();
        let error = format!("{:#}", ensure(dir.path(), "one").unwrap_err());
        assert!(error.contains("6 bytes") && !error.contains("secret\""), "{error}");
    }
}
