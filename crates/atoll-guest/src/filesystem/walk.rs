//! The entries below a directory, in lexical order, to a depth, links not followed.
//!
//! How it works: depth first, each directory sorted; too many entries are an error that says so.
//!
//! Deliberately absent: pages.

use std::{fs, path::Path};

use atoll_proto::filesystem::EntryInfo;

use super::entry::{self, Names};
use crate::error::AgentError;

/// How many entries one answer holds: about 1 MiB.
const LIMIT: usize = 10_000;

/// Lists a directory; `depth` 1 is its own entries alone.
pub(crate) fn list(path: &Path, depth: u32) -> Result<Vec<EntryInfo>, AgentError> {
    let found = fs::metadata(path).map_err(|error| AgentError::file(path, error))?;
    if !found.is_dir() {
        return Err(AgentError::NotDirectory(path.display().to_string()));
    }
    let names = Names::read()?;
    let mut entries = Vec::new();
    walk(path, depth.max(1), &names, &mut entries)?;
    Ok(entries)
}

fn walk(path: &Path, depth: u32, names: &Names, entries: &mut Vec<EntryInfo>) -> Result<(), AgentError> {
    let mut children: Vec<_> = fs::read_dir(path)
        .map_err(|error| AgentError::file(path, error))?
        .filter_map(Result::ok)
        .take(LIMIT + 1)
        .collect();
    children.sort_by_key(fs::DirEntry::file_name);
    for child in children {
        if entries.len() == LIMIT {
            return Err(AgentError::Limit(format!(
                "more than {LIMIT} entries; list a smaller directory or fewer levels"
            )));
        }
        // What disappears while it is looked at was never there.
        let Ok(entry) = entry::describe(&child.path(), names) else {
            continue;
        };
        entries.push(entry);
        if depth > 1 && child.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&child.path(), depth - 1, names, entries)?;
        }
    }
    Ok(())
}
