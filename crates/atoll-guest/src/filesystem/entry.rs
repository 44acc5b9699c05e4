//! One entry of the tree, as the wire describes it.
//!
//! How it works: `lstat`, and the names of owner and group from account files that are read once for many entries.
//!
//! Deliberately absent: contents.

use std::{
    fs::{self, Metadata},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use atoll_proto::filesystem::{EntryInfo, FileType};
use buffa_types::google::protobuf::Timestamp;

use crate::{error::AgentError, metadata, users};

/// Account files, read once for many entries.
pub(crate) struct Names {
    passwd: String,
    group: String,
}

impl Names {
    pub(crate) fn read() -> Result<Self, AgentError> {
        Ok(Self { passwd: users::read("/etc/passwd")?, group: users::read("/etc/group")? })
    }
}

/// Describes what is at a path. Of a symbolic link: itself, with the type of what it
/// leads to, and where that is.
pub(crate) fn describe(path: &Path, names: &Names) -> Result<EntryInfo, AgentError> {
    let own = fs::symlink_metadata(path).map_err(|error| AgentError::file(path, error))?;
    let (kind, target) = if own.is_symlink() {
        let target = fs::canonicalize(path).ok();
        let kind = match target.as_ref().and_then(|target| fs::metadata(target).ok()) {
            Some(found) => kind_of(&found),
            None => FileType::FILE_TYPE_SYMLINK,
        };
        (kind, Some(target.map_or_else(|| dangling(path), |target| target.display().to_string())))
    } else {
        (kind_of(&own), None)
    };
    Ok(EntryInfo {
        name: path.file_name().map_or_else(|| "/".to_owned(), |name| name.to_string_lossy().into_owned()),
        r#type: kind.into(),
        path: path.display().to_string(),
        size: i64::try_from(own.size()).unwrap_or(i64::MAX),
        mode: own.mode() & 0o7777,
        permissions: permissions(&own),
        owner: users::name_of(&names.passwd, own.uid()),
        group: users::name_of(&names.group, own.gid()),
        modified_time: Timestamp {
            seconds: own.mtime(),
            nanos: i32::try_from(own.mtime_nsec()).unwrap_or(0),
            ..Default::default()
        }
        .into(),
        metadata: metadata::read(path).into_iter().collect(),
        is_symlink: own.is_symlink(),
        symlink_target: target,
        ..Default::default()
    })
}

/// Where a link leads that leads nowhere.
fn dangling(path: &Path) -> String {
    let target = fs::read_link(path).unwrap_or_else(|_| PathBuf::new());
    match path.parent() {
        Some(parent) => parent.join(target).display().to_string(),
        None => target.display().to_string(),
    }
}

fn kind_of(metadata: &Metadata) -> FileType {
    if metadata.is_dir() {
        FileType::FILE_TYPE_DIRECTORY
    } else if metadata.is_file() {
        FileType::FILE_TYPE_FILE
    } else if metadata.is_symlink() {
        FileType::FILE_TYPE_SYMLINK
    } else {
        FileType::FILE_TYPE_UNSPECIFIED
    }
}

/// The mode as Go writes it: `drwxr-xr-x`, with letters of its own for the rest.
fn permissions(metadata: &Metadata) -> String {
    let mode = metadata.mode();
    let kind = metadata.file_type();
    let mut text = String::new();
    for (is, letter) in [
        (kind.is_dir(), 'd'),
        (kind.is_symlink(), 'L'),
        (kind.is_fifo(), 'p'),
        (kind.is_socket(), 'S'),
        (mode & 0o4000 != 0, 'u'),
        (mode & 0o2000 != 0, 'g'),
        (kind.is_char_device() || kind.is_block_device(), 'D'),
        (kind.is_char_device(), 'c'),
        (mode & 0o1000 != 0, 't'),
    ] {
        if is {
            text.push(letter);
        }
    }
    if text.is_empty() {
        text.push('-');
    }
    for (bit, letter) in "rwxrwxrwx".chars().enumerate() {
        let set = mode & (0o400 >> bit) != 0;
        text.push(if set { letter } else { '-' });
    }
    text
}
