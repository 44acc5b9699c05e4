//! What a path of a request means: `~` is the user's home, and what is relative
//! starts there.
//!
//! How it works: by the text alone: `.` and `..` are taken out, links are not looked at.
//!
//! Deliberately absent: confinement: the guest is the boundary.

use std::path::{Component, Path, PathBuf};

use crate::{error::AgentError, users::User};

/// The longest path that is taken, in bytes (PATH_MAX).
const LIMIT: usize = 4096;

/// Makes a path absolute and takes `.` and `..` out of it (by its text alone).
pub(crate) fn resolve(path: &str, user: &User) -> Result<PathBuf, AgentError> {
    if path.len() > LIMIT {
        return Err(AgentError::Invalid(format!("path is longer than {LIMIT} bytes")));
    }
    if path.contains('\0') {
        return Err(AgentError::Invalid("path holds a NUL byte".into()));
    }
    let absolute = if path == "~" || path.is_empty() {
        user.home.clone()
    } else if let Some(rest) = path.strip_prefix("~/") {
        user.home.join(rest)
    } else {
        user.home.join(path)
    };
    Ok(clean(&absolute))
}

fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(part) => clean.push(part),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_home(path: &str) -> String {
        let user = User { name: "user".into(), uid: 1000, gid: 1000, home: "/home/user".into(), groups: vec![] };
        resolve(path, &user).unwrap().display().to_string()
    }

    #[test]
    fn paths_start_at_home() {
        assert_eq!(at_home(""), "/home/user");
        assert_eq!(at_home("~"), "/home/user");
        assert_eq!(at_home("~/a"), "/home/user/a");
        assert_eq!(at_home("a/./b"), "/home/user/a/b");
        assert_eq!(at_home("/etc//passwd"), "/etc/passwd");
        assert_eq!(at_home("../../../x"), "/x");
        assert_eq!(at_home("~user"), "/home/user/~user");
    }
}
