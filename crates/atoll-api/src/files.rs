//! Files of a sandbox.
//!
//! How it works: plain serde types; contents travel beside them, as bodies or parts of a form.
//!
//! Deliberately absent: contents.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Asks for the contents of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReadFileRequest {
    /// Path in the sandbox; a relative one begins at the user's home.
    #[schema(example = "/root/result.json")]
    pub path: String,
}

/// The parts of a `multipart/form-data` body that writes a file. `path` comes before `file`.
#[derive(Debug, Clone, ToSchema)]
pub struct FileWrite {
    /// Path in the sandbox; missing directories are made.
    #[schema(example = "/root/input.csv")]
    pub path: String,
    /// Its contents.
    #[schema(value_type = String, format = Binary)]
    pub file: Vec<u8>,
}

/// Names a path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PathRequest {
    /// Path in the sandbox; a relative one begins at the user's home.
    #[schema(example = "/root/data")]
    pub path: String,
}

/// Asks what is in a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListFilesRequest {
    /// The directory.
    #[schema(example = "/root")]
    pub path: String,
    /// How many levels down; absent and 0 mean 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 32)]
    pub depth: Option<i64>,
}

/// Asks for a file or directory to be moved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MoveRequest {
    /// Where it is.
    pub source: String,
    /// Where it shall be.
    pub destination: String,
}

/// What an entry is. What is none of these (a socket, a device) says `file`; `permissions` tells it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// A file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
}

/// One entry of a sandbox's file tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileEntry {
    /// The last part of its path.
    pub name: String,
    /// Its absolute path.
    pub path: String,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: FileKind,
    /// Its size in bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// The mode as text.
    #[schema(example = "-rw-r--r--")]
    pub permissions: String,
    /// Its owner.
    pub owner: String,
    /// Its group.
    pub group: String,
    /// When it was last changed, in seconds since 1970 UTC.
    pub modified_at: i64,
    /// Where a symbolic link leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub symlink_target: Option<String>,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EntryResponse {
    /// The entry.
    pub entry: FileEntry,
}

/// What is in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EntryList {
    /// The entries.
    pub entries: Vec<FileEntry>,
}
