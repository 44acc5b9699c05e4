//! Watching a directory, and if wanted everything below it.
//!
//! How it works: a directory that appears is watched from then on; what was put into it before that is found by looking
//! and told as if it had been seen. The kernel may tell of the same entry once more: its creation is told once, a write
//! to it perhaps twice.
//!
//! Deliberately absent: what is there at the beginning.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fs, io,
    path::{Path, PathBuf},
};

use atoll_proto::filesystem::{EventType, FilesystemEvent};

use super::inotify::{Inotify, Raw};
use crate::error::AgentError;

/// How many directories one watcher covers.
const DIRECTORIES: usize = 8192;

/// How many events wait for their reader; older ones are dropped.
const WAITING: usize = 65_536;

/// Watches a directory until it is dropped.
pub(super) struct Watcher {
    inotify: Inotify,
    root: PathBuf,
    recursive: bool,
    /// Watched directories, by their paths below the root.
    directories: HashMap<i32, PathBuf>,
    /// Entries that were found by looking, and that the kernel may tell of again.
    found: HashSet<PathBuf>,
    ready: VecDeque<FilesystemEvent>,
}

impl Watcher {
    /// Begins to watch. What is there already is not told.
    pub(super) fn new(root: PathBuf, recursive: bool) -> Result<Self, AgentError> {
        let metadata = fs::metadata(&root).map_err(|error| AgentError::file(&root, error))?;
        if !metadata.is_dir() {
            return Err(AgentError::NotDirectory(root.display().to_string()));
        }
        // The watch itself does not follow links.
        let root = fs::canonicalize(&root).map_err(|error| AgentError::file(&root, error))?;
        let inotify = Inotify::new().map_err(|error| AgentError::io("making a watcher", error))?;
        let mut watcher = Self {
            inotify,
            root,
            recursive,
            directories: HashMap::new(),
            found: HashSet::new(),
            ready: VecDeque::new(),
        };
        watcher.cover(Path::new(""), false)?;
        Ok(watcher)
    }

    /// The next event. Loses none when it is dropped before it is ready.
    pub(super) async fn next(&mut self) -> Result<FilesystemEvent, AgentError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let events = self.inotify.read().await.map_err(|error| AgentError::io("watching a directory", error))?;
            for event in events {
                self.take(&event)?;
            }
        }
    }

    fn tell(&mut self, path: &Path, kind: EventType) {
        // A tree that was moved in whole may hold more than anybody reads.
        if self.ready.len() == WAITING {
            self.ready.pop_front();
        }
        self.ready.push_back(FilesystemEvent {
            name: path.display().to_string(),
            r#type: kind.into(),
            ..Default::default()
        });
    }

    fn take(&mut self, event: &Raw) -> Result<(), AgentError> {
        if event.has(libc::IN_IGNORED) {
            self.directories.remove(&event.watch);
            return Ok(());
        }
        let Some(folder) = self.directories.get(&event.watch) else {
            return Ok(());
        };
        if event.name.is_empty() {
            // About the directory itself: its parent's watch tells the same by name.
            return Ok(());
        }
        let path = folder.join(&event.name);
        let is_folder = event.has(libc::IN_ISDIR);
        if event.has(libc::IN_CREATE | libc::IN_MOVED_TO) {
            // What was found by looking was told then, and is covered since then.
            if !self.found.remove(&path) {
                self.tell(&path, EventType::EVENT_TYPE_CREATE);
                if is_folder && self.recursive {
                    self.cover(&path, true)?;
                }
            }
        }
        if event.has(libc::IN_ATTRIB) {
            self.tell(&path, EventType::EVENT_TYPE_CHMOD);
        }
        if event.has(libc::IN_MODIFY) {
            self.tell(&path, EventType::EVENT_TYPE_WRITE);
        }
        if event.has(libc::IN_DELETE) {
            self.found.remove(&path);
            self.tell(&path, EventType::EVENT_TYPE_REMOVE);
        }
        if event.has(libc::IN_MOVED_FROM) {
            self.found.remove(&path);
            self.tell(&path, EventType::EVENT_TYPE_RENAME);
            if is_folder {
                self.forget(&path);
            }
        }
        Ok(())
    }

    /// Watches a directory and, if wanted, all below it.
    fn cover(&mut self, folder: &Path, tell: bool) -> Result<(), AgentError> {
        let mut open = vec![folder.to_owned()];
        while let Some(folder) = open.pop() {
            let path = self.root.join(&folder);
            if self.directories.len() == DIRECTORIES {
                return Err(AgentError::Limit(format!(
                    "a watcher covers at most {DIRECTORIES} directories; watch a smaller tree"
                )));
            }
            match self.inotify.add(&path) {
                Ok(watch) => self.directories.insert(watch, folder.clone()),
                // It has gone again, or is a directory no more.
                Err(error) if gone(&error) && !folder.as_os_str().is_empty() => continue,
                Err(error) => return Err(AgentError::file(&path, error)),
            };
            if !self.recursive {
                return Ok(());
            }
            let Ok(entries) = fs::read_dir(&path) else {
                continue;
            };
            for entry in entries.filter_map(Result::ok) {
                let below = folder.join(entry.file_name());
                let Ok(kind) = entry.file_type() else {
                    continue;
                };
                if tell {
                    self.tell_found(&below, &entry);
                }
                if kind.is_dir() {
                    open.push(below);
                }
            }
        }
        Ok(())
    }

    fn tell_found(&mut self, path: &Path, entry: &fs::DirEntry) {
        if self.found.len() < DIRECTORIES {
            self.found.insert(path.to_owned());
        }
        self.tell(path, EventType::EVENT_TYPE_CREATE);
        if entry.metadata().is_ok_and(|found| found.is_file() && found.len() > 0) {
            self.tell(path, EventType::EVENT_TYPE_WRITE);
        }
    }

    /// Watches no longer what has moved away.
    fn forget(&mut self, folder: &Path) {
        let inotify = &self.inotify;
        self.directories.retain(|watch, path| {
            let below = path.starts_with(folder);
            if below {
                inotify.remove(*watch);
            }
            !below
        });
    }
}

fn gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::EACCES))
}
