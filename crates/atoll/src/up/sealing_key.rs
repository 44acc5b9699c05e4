//! `keys/secrets.key`: the key under which secrets of sandboxes are sealed in the database.
//!
//! How it works: 32 random bytes with mode 0600, outside the database, so that a copy of the database alone opens nothing. Made at the first
//! start, and again when it is gone: then what was sealed before cannot be opened, which a resume says, and nothing else suffers.
//!
//! Deliberately absent: what is sealed (atoll-control).

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use atoll_control::SealingKey;

const DIRECTORY: &str = "keys";
const NAME: &str = "secrets.key";

/// The key of a data directory, made if there is none.
pub(crate) fn ensure(data: &Path) -> Result<SealingKey> {
    let path = data.join(DIRECTORY).join(NAME);
    match fs::read(&path) {
        Ok(bytes) => match <[u8; 32]>::try_from(bytes) {
            Ok(key) => Ok(SealingKey::new(key)),
            Err(bytes) => bail!(
                "{} holds {} bytes instead of 32: put the right file back, or move it away",
                path.display(),
                bytes.len()
            ),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut key = [0; 32];
            getrandom::fill(&mut key).context("the machine gives no random bytes")?;
            make(data, &key).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(SealingKey::new(key))
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn make(data: &Path, key: &[u8; 32]) -> io::Result<()> {
    let dir = data.join(DIRECTORY);
    match DirBuilder::new().mode(0o700).create(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let temporary = dir.join("secrets.tmp");
    // A leftover of a crash may have any mode; a new file has ours.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    out.write_all(key)?;
    out.sync_all()?;
    fs::rename(&temporary, dir.join(NAME))?;
    File::open(&dir)?.sync_all()?;
    File::open(data)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn it_is_made_once_private_and_a_broken_one_is_named_without_its_contents() {
        let dir = tempfile::tempdir().unwrap();
        let name = |key: SealingKey| format!("{key:?}");
        let first = name(ensure(dir.path()).unwrap());
        assert_eq!(name(ensure(dir.path()).unwrap()), first);
        let path = dir.path().join("keys/secrets.key");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_file(&path).unwrap();
        assert_ne!(name(ensure(dir.path()).unwrap()), first, "another key, and not none");
        fs::write(&path, "secret").unwrap();
        let error = format!("{:#}", ensure(dir.path()).unwrap_err());
        assert!(error.contains("6 bytes") && !error.contains("secret\""), "{error}");
    }
}
