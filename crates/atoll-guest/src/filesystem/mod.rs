//! `filesystem.Filesystem`: looking at the guest's tree, changing and watching it.

pub(crate) mod directory;
mod entry;
mod inotify;
mod service;
mod walk;
mod watch;
mod watchers;

pub(crate) use service::FilesystemService;
