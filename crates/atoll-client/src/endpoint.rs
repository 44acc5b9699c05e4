//! Where an Atoll is, and how one proves who one is there.
//!
//! How it works: over TCP by an API key, over the data directory's socket by one's uid. A socket's address holds at most 107 bytes, a
//! data directory's path may be longer, so the socket is named through the open directory in /proc/self/fd.
//!
//! Deliberately absent: reading the environment (the command line's).

use std::fmt;
use std::io::ErrorKind;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::ClientError;

/// The socket's path below a data directory.
pub const SOCKET: &str = "run/atoll.sock";

/// An API key. Its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// Takes a key as it is written.
    ///
    /// # Errors
    /// [`ClientError::BadKey`] for what could not be a header.
    pub fn new(text: &str) -> Result<Self, ClientError> {
        let text = text.trim();
        let good = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        if good { Ok(Self(text.to_owned())) } else { Err(ClientError::BadKey) }
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

/// Where an Atoll is.
#[derive(Debug, Clone)]
pub enum Endpoint {
    /// Over TCP.
    Http {
        /// Such as `http://127.0.0.1:7070`.
        url: String,
        /// The key, where there is one.
        key: Option<ApiKey>,
    },
    /// Over the socket of a data directory.
    Data(PathBuf),
}

/// A data directory's socket that somebody listens on.
#[derive(Debug)]
pub(crate) struct Socket {
    /// Good as long as this value lives.
    pub(crate) path: PathBuf,
    _dir: OwnedFd,
}

impl Socket {
    /// Finds the socket of a data directory and tries it.
    pub(crate) fn find(data: &Path) -> Result<Self, ClientError> {
        let not_running = || ClientError::NotRunning { data: data.to_owned() };
        let foreign = || ClientError::ForeignSocket { data: data.to_owned() };
        let below = Path::new(SOCKET);
        let dir = data.join(below.parent().unwrap_or(below));
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = open(&dir, flags, Mode::empty()).map_err(|errno| match errno {
            nix::errno::Errno::EACCES => foreign(),
            _ => not_running(),
        })?;
        let name = below.file_name().unwrap_or_default();
        let path = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
        match UnixStream::connect(&path) {
            Ok(_) => Ok(Self { path, _dir: dir }),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(foreign()),
            Err(_) => Err(not_running()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_never_shows_in_debug_and_must_fit_a_header() {
        let key = ApiKey::new(" atoll_00ff \n").unwrap();
        assert_eq!(key.expose(), "atoll_00ff");
        assert!(!format!("{key:?}").contains("00ff"));
        assert!(ApiKey::new("a\nb").is_err() && ApiKey::new("  ").is_err());
    }

    #[test]
    fn a_socket_is_found_behind_a_path_longer_than_a_socket_address() {
        let base = tempfile::tempdir().unwrap();
        let data = base.path().join("d".repeat(120));
        std::fs::create_dir_all(data.join("run")).unwrap();
        assert!(matches!(Socket::find(&data), Err(ClientError::NotRunning { .. })));
        let dir = std::fs::File::open(data.join("run")).unwrap();
        let name = format!("/proc/self/fd/{}/atoll.sock", dir.as_raw_fd());
        let listener = std::os::unix::net::UnixListener::bind(name).unwrap();
        Socket::find(&data).unwrap();
        drop(listener);
        assert!(matches!(Socket::find(&data), Err(ClientError::NotRunning { .. })), "nobody listens on it any more");
    }
}
