//! `filesystem.Filesystem`: looking at the guest's tree, changing and watching it.
//!
//! How it works: [`service`] is the wire, the others do the work and know nothing of it.
//!
//! Deliberately absent: contents (`files/`).

pub(crate) mod directory;
mod entry;
mod inotify;
mod service;
mod walk;
mod watch;
mod watchers;

pub(crate) use service::FilesystemService;
