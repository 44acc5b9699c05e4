//! Entries of the guest's file tree.
//!
//! How it works: plain types, made of the wire's; a kind that is unknown here is `Other`.
//!
//! Deliberately absent: trust: names and paths are text out of a guest.

use atoll_proto::filesystem as wire;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// An ordinary file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// Anything else: a socket, a device, a pipe.
    Other,
}

/// One entry of the guest's file tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The last part of its path.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
    /// Its absolute path.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// The mode as text, such as `drwxr-xr-x`.
    pub permissions: String,
    /// Its owner's name, or number.
    pub owner: String,
    /// Its group's name, or number.
    pub group: String,
    /// When it was last changed, in microseconds since 1970 UTC.
    pub modified_us: i64,
    /// Where a symbolic link leads.
    pub symlink_target: Option<String>,
}

impl Entry {
    pub(crate) fn from_wire(entry: wire::EntryInfo) -> Self {
        let modified_us = entry
            .modified_time
            .as_option()
            .map(|time| time.seconds.saturating_mul(1_000_000).saturating_add(i64::from(time.nanos) / 1000))
            .unwrap_or(0);
        let kind = match entry.r#type.to_i32() {
            1 => EntryKind::File,
            2 => EntryKind::Directory,
            3 => EntryKind::Symlink,
            _ => EntryKind::Other,
        };
        Self {
            name: entry.name,
            kind,
            path: entry.path,
            size: u64::try_from(entry.size).unwrap_or(0),
            mode: entry.mode,
            permissions: entry.permissions,
            owner: entry.owner,
            group: entry.group,
            modified_us,
            symlink_target: entry.symlink_target,
        }
    }
}
