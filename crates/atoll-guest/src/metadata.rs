//! What a client notes about a file: `user.e2b.*` extended attributes, which travel with it.
//!
//! How it works: an upload replaces the whole set; what somebody else has set under the same prefix shows up too.
//!
//! Deliberately absent: a substitute where a file system has no such attributes (a tmpfs of an older kernel).
#![expect(unsafe_code, reason = "the calls for extended attributes have no safe wrapper")]

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString},
    fs::File,
    io,
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    path::Path,
};

use http::HeaderMap;

use crate::error::AgentError;

/// What the attributes' names begin with, and the headers' that set them.
const PREFIX: &str = "user.e2b.";
const HEADER: &str = "x-metadata-";
/// How much of one file's metadata is taken, and told: names and values, in bytes.
const BYTES: usize = 4096;
const COUNT: usize = 64;

/// Metadata by name, without the prefix.
pub(crate) type Metadata = BTreeMap<String, String>;

/// What an upload's headers say.
pub(crate) fn of_headers(headers: &HeaderMap) -> Result<Metadata, AgentError> {
    let mut metadata = Metadata::new();
    let mut bytes = 0;
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix(HEADER).filter(|key| !key.is_empty()) else {
            continue;
        };
        let value = value
            .to_str()
            .map_err(|_| AgentError::Invalid(format!("the value of `{HEADER}{key}` must be printable ASCII")))?;
        bytes += key.len() + value.len();
        metadata.insert(key.to_owned(), value.to_owned());
    }
    if bytes > BYTES || metadata.len() > COUNT {
        return Err(AgentError::Invalid(format!("a file takes at most {COUNT} metadata, {BYTES} bytes together")));
    }
    Ok(metadata)
}

/// Sets a file's metadata, all of it.
pub(crate) fn replace(file: &File, metadata: &Metadata) -> io::Result<()> {
    let fd = file.as_raw_fd();
    // SAFETY: the list is written into a buffer of the size that is given.
    let names = list(|buffer, size| unsafe { libc::flistxattr(fd, buffer, size) });
    for name in names.iter().filter(|name| key(name).is_some_and(|key| !metadata.contains_key(key))) {
        // SAFETY: a valid descriptor and a terminated string. One that has gone is as good.
        unsafe {
            libc::fremovexattr(fd, name.as_ptr());
        }
    }
    for (key, value) in metadata {
        let name = CString::new(format!("{PREFIX}{key}"))?;
        // SAFETY: a valid descriptor, a terminated string, and a value of the length that is given.
        let set = unsafe { libc::fsetxattr(fd, name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
        if set != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The metadata of what is at a path; nothing where there can be none.
pub(crate) fn read(path: &Path) -> Metadata {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return Metadata::new();
    };
    // SAFETY: a terminated string, and a buffer of the size that is given.
    let names = list(|buffer, size| unsafe { libc::listxattr(path.as_ptr(), buffer, size) });
    let mut metadata = Metadata::new();
    let mut bytes = 0;
    for name in names.iter().take(COUNT) {
        let Some(key) = key(name) else {
            continue;
        };
        let mut value = vec![0; BYTES];
        // SAFETY: terminated strings, and a buffer of the size that is given.
        let length = unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        let Ok(length) = usize::try_from(length) else {
            continue;
        };
        bytes += key.len() + length;
        if bytes > BYTES {
            break;
        }
        metadata.insert(key.to_owned(), String::from_utf8_lossy(&value[..length]).into_owned());
    }
    metadata
}

/// The names of all attributes. None where there are none, or more than fit.
fn list(call: impl Fn(*mut libc::c_char, usize) -> libc::ssize_t) -> Vec<CString> {
    let mut buffer = vec![0_u8; 2 * BYTES];
    let length = usize::try_from(call(buffer.as_mut_ptr().cast(), buffer.len())).unwrap_or(0);
    let mut names = Vec::new();
    let mut rest = &buffer[..length.min(buffer.len())];
    while let Ok(name) = CStr::from_bytes_until_nul(rest) {
        rest = &rest[name.to_bytes_with_nul().len()..];
        names.push(name.to_owned());
    }
    names
}

fn key(name: &CStr) -> Option<&str> {
    name.to_str().ok()?.strip_prefix(PREFIX).filter(|key| !key.is_empty())
}
