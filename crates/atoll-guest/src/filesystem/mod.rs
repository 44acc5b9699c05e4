//! `filesystem.Filesystem`: looking at the guest's tree, changing and watching it.

pub(crate) mod directory;
mod entry;
mod service;
mod walk;

pub(crate) use service::FilesystemService;
