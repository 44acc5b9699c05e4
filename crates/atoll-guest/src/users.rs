//! Users of the guest, read from `/etc/passwd` and `/etc/group`.
//!
//! How it works: line by line, within a bound on the file.
//!
//! Deliberately absent: NSS: a static binary has none, and a guest's files are all there is.

use std::{fs::File, io::Read, path::PathBuf};

use crate::error::AgentError;

/// No account file is read beyond this.
const FILE_LIMIT: u64 = 1 << 20;

/// Somebody who can run programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) home: PathBuf,
    /// Supplementary groups, the primary one among them.
    pub(crate) groups: Vec<u32>,
}

/// Finds a user by name.
pub(crate) fn find(name: &str) -> Result<User, AgentError> {
    let unknown = || AgentError::UnknownUser(name.chars().take(64).collect());
    let mut user = parse_user(&read("/etc/passwd")?, name).ok_or_else(unknown)?;
    user.groups = parse_groups(&read("/etc/group")?, name, user.gid);
    Ok(user)
}

/// The name of a user or group by its number, or the number itself.
pub(crate) fn name_of(table: &str, id: u32) -> String {
    table
        .lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(id)).then(|| name.to_owned())
        })
        .unwrap_or_else(|| id.to_string())
}

/// Reads an account file; one that does not exist is empty.
pub(crate) fn read(path: &str) -> Result<String, AgentError> {
    let failed = |source| AgentError::io(format!("reading {path}"), source);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(FILE_LIMIT).read_to_end(&mut bytes).map_err(failed)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn parse_user(table: &str, name: &str) -> Option<User> {
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        if fields.len() < 6 || fields[0] != name || name.is_empty() {
            return None;
        }
        Some(User {
            name: name.to_owned(),
            uid: fields[2].parse().ok()?,
            gid: fields[3].parse().ok()?,
            home: PathBuf::from(if fields[5].is_empty() { "/" } else { fields[5] }),
            groups: Vec::new(),
        })
    })
}

fn parse_groups(table: &str, name: &str, primary: u32) -> Vec<u32> {
    let mut groups = vec![primary];
    for line in table.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let member = fields.len() >= 4 && fields[3].split(',').any(|member| member == name);
        if let (true, Some(Ok(gid))) = (member, fields.get(2).map(|gid| gid.parse()))
            && !groups.contains(&gid)
        {
            groups.push(gid);
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/bash\nbroken\nuser:x:1000:1001::/home/user:/bin/bash\nbare:x:5:5:::\n";
    const GROUP: &str = "root:x:0:\nsudo:x:27:user,other\nuser:x:1001:\ndocker:x:99:other,user\n";

    #[test]
    fn a_user_comes_with_its_groups() {
        let mut user = parse_user(PASSWD, "user").unwrap();
        user.groups = parse_groups(GROUP, "user", user.gid);
        assert_eq!((user.uid, user.gid), (1000, 1001));
        assert_eq!(user.home, PathBuf::from("/home/user"));
        assert_eq!(user.groups, [1001, 27, 99]);
    }

    #[test]
    fn nobody_is_made_up() {
        assert_eq!(parse_user(PASSWD, "broken"), None);
        assert_eq!(parse_user(PASSWD, ""), None);
        assert_eq!(parse_user(PASSWD, "use"), None);
    }

    #[test]
    fn an_empty_home_is_the_root() {
        assert_eq!(parse_user(PASSWD, "bare").unwrap().home, PathBuf::from("/"));
    }

    #[test]
    fn numbers_get_their_names() {
        assert_eq!(name_of(PASSWD, 1000), "user");
        assert_eq!(name_of(GROUP, 27), "sudo");
        assert_eq!(name_of(GROUP, 4711), "4711");
    }
}
