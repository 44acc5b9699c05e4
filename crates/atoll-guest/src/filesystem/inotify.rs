//! inotify, as little of it as watching needs.
//!
//! How it works: one descriptor in the runtime; a read gives some events, cut out of the kernel's buffer.
//!
//! Deliberately absent: what the events mean (`watch.rs`).
#![expect(unsafe_code, reason = "inotify's system calls")]

use std::{
    ffi::{CString, OsString},
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::Path,
};

use tokio::io::{Interest, unix::AsyncFd};

use crate::process::child::watched;

/// What is watched in every directory. A link that takes a directory's place is not
/// followed.
const MASK: u32 = libc::IN_CREATE
    | libc::IN_MODIFY
    | libc::IN_ATTRIB
    | libc::IN_DELETE
    | libc::IN_MOVED_FROM
    | libc::IN_MOVED_TO
    | libc::IN_ONLYDIR
    | libc::IN_DONT_FOLLOW
    | libc::IN_EXCL_UNLINK;

/// Enough for some events with the longest names.
const BUFFER: usize = 16 * 1024;
/// Size of an event without its name.
const HEAD: usize = 16;

/// One event of the kernel.
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) watch: i32,
    pub(super) mask: u32,
    pub(super) name: OsString,
}

impl Raw {
    pub(super) fn has(&self, flag: u32) -> bool {
        self.mask & flag != 0
    }
}

/// An inotify instance.
pub(super) struct Inotify {
    fd: AsyncFd<OwnedFd>,
}

impl Inotify {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: a system call without pointers; the descriptor it gives is new.
        let fd = unsafe {
            let raw = libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC);
            if raw < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(raw)
        };
        Ok(Self { fd: watched(fd, Interest::READABLE)? })
    }

    /// Watches one directory.
    pub(super) fn add(&self, path: &Path) -> io::Result<i32> {
        let path = CString::new(path.as_os_str().as_bytes())?;
        // SAFETY: a valid descriptor and a terminated string.
        let watch = unsafe { libc::inotify_add_watch(self.fd.as_raw_fd(), path.as_ptr(), MASK) };
        if watch < 0 { Err(io::Error::last_os_error()) } else { Ok(watch) }
    }

    /// Watches a directory no longer.
    pub(super) fn remove(&self, watch: i32) {
        // SAFETY: a system call without pointers. An error means that it has gone already.
        unsafe {
            libc::inotify_rm_watch(self.fd.as_raw_fd(), watch);
        }
    }

    /// The next events. Loses none when it is dropped before it is ready.
    pub(super) async fn read(&self) -> io::Result<Vec<Raw>> {
        loop {
            let mut guard = self.fd.readable().await?;
            let mut buffer = vec![0; BUFFER];
            let read = guard.try_io(|fd| nix::unistd::read(fd.get_ref(), &mut buffer).map_err(io::Error::from));
            match read {
                Ok(Ok(length)) => return Ok(parse(&buffer[..length])),
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(error)) => return Err(error),
                Err(_would_block) => {}
            }
        }
    }
}

/// Cuts a buffer of the kernel into events: watch, mask, cookie, length, name.
fn parse(mut buffer: &[u8]) -> Vec<Raw> {
    let mut events = Vec::new();
    while let Some((head, rest)) = buffer.split_at_checked(HEAD) {
        let number = |at: usize| {
            let bytes: [u8; 4] = head[at..at + 4].try_into().unwrap_or_default();
            u32::from_ne_bytes(bytes)
        };
        let length = usize::try_from(number(12)).unwrap_or(usize::MAX);
        let Some((name, rest)) = rest.split_at_checked(length) else {
            break;
        };
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(length);
        events.push(Raw {
            watch: number(0).cast_signed(),
            mask: number(4),
            name: OsString::from_vec(name[..end].to_vec()),
        });
        buffer = rest;
    }
    events
}
