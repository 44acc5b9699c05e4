//! `admin.json`: what the first start made, for its owner's eyes alone.
//!
//! How it works: written with mode 0600 under a temporary name and renamed, before anything is answered. A later start, whose port may
//! be another, only brings the address up to date.
//!
//! Deliberately absent: making the secrets (the control plane's; it keeps only hashes).

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use atoll_control::FirstStart;
use serde::{Deserialize, Serialize};

/// The file's name in the data directory.
pub(crate) const NAME: &str = "admin.json";

/// What the file says.
#[derive(Serialize, Deserialize)]
pub(crate) struct AdminFile {
    /// Where the API is.
    pub(crate) url: String,
    /// How the admin signs in.
    pub(crate) email: String,
    /// Its password.
    pub(crate) password: String,
    /// Its team.
    pub(crate) team_id: String,
    /// The team's first API key.
    pub(crate) api_key: String,
}

/// Writes what the first start made, or the new address into what an earlier one wrote.
pub(crate) fn write(data: &Path, url: &str, first: Option<FirstStart>) -> Result<()> {
    let path = data.join(NAME);
    let file = match first {
        Some(first) => AdminFile {
            url: url.to_owned(),
            email: first.email,
            password: first.password,
            team_id: first.team_id.to_string(),
            api_key: first.api_key,
        },
        None => match read(&path)? {
            Some(old) if old.url == url => return Ok(()),
            Some(old) => AdminFile { url: url.to_owned(), ..old },
            // Its owner took it away, which is a fair thing to do with secrets.
            None => return Ok(()),
        },
    };
    replace(&path, &file).with_context(|| format!("cannot write {}", path.display()))
}

fn read(path: &Path) -> Result<Option<AdminFile>> {
    match fs::read(path) {
        Ok(text) => {
            let file = serde_json::from_slice(&text);
            // serde's text would quote what it stumbled over, and that may be the key.
            file.map(Some).map_err(|_| anyhow::anyhow!("{} is malformed: mend it or move it away", path.display()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn replace(path: &Path, file: &AdminFile) -> std::io::Result<()> {
    let temporary = path.with_extension("tmp");
    // A leftover of a crash may have any mode; a new file has ours.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let mut text = serde_json::to_vec_pretty(file)?;
    text.push(b'\n');
    out.write_all(&text)?;
    out.sync_all()?;
    fs::rename(&temporary, path)?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn first() -> FirstStart {
        FirstStart {
            email: "a@b".into(),
            password: "p".into(),
            team_id: atoll_domain::TeamId::from_random([1; 16]),
            api_key: "atoll_00".into(),
        }
    }

    #[test]
    fn it_is_private_and_a_later_start_changes_the_address_alone() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "http://127.0.0.1:1", Some(first())).unwrap();
        let path = dir.path().join(NAME);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        write(dir.path(), "http://127.0.0.1:2", None).unwrap();
        let read = read(&path).unwrap().unwrap();
        assert_eq!((read.url.as_str(), read.api_key.as_str()), ("http://127.0.0.1:2", "atoll_00"));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn one_that_was_taken_away_stays_away_and_a_broken_one_is_named_without_its_contents() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "http://127.0.0.1:2", None).unwrap();
        assert!(!dir.path().join(NAME).exists());
        fs::write(dir.path().join(NAME), "{\"api_key\": \"atoll_secret\"").unwrap();
        let error = format!("{:#}", write(dir.path(), "http://127.0.0.1:2", None).unwrap_err());
        assert!(error.contains("malformed") && !error.contains("secret"), "{error}");
    }
}
