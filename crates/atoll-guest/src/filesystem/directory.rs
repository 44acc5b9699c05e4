//! Making directories that belong to a user.
//!
//! How it works: from the top down, each one that is missing is made and given to the user.
//!
//! Deliberately absent: changing what is there already.

use std::{
    fs::{self, DirBuilder},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, chown},
    path::Path,
};

use crate::{error::AgentError, users::User};

/// Makes a directory and its missing parents, 0755 and the user's. What is there
/// already stays as it is.
pub(crate) fn make_all(path: &Path, user: &User) -> Result<(), AgentError> {
    let mut missing = Vec::new();
    for ancestor in path.ancestors() {
        match fs::metadata(ancestor) {
            Ok(found) if found.is_dir() => break,
            Ok(_) => {
                return Err(AgentError::NotDirectory(ancestor.display().to_string()));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => missing.push(ancestor),
            Err(error) => return Err(AgentError::file(ancestor, error)),
        }
    }
    for directory in missing.into_iter().rev() {
        let failed = |error| AgentError::file(directory, error);
        match DirBuilder::new().mode(0o755).create(directory) {
            // Somebody else was faster.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(error)),
            Ok(()) => chown(directory, Some(user.uid), Some(user.gid)).map_err(failed)?,
        }
    }
    Ok(())
}
