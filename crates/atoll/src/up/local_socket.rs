//! The data directory's own socket: whoever may open it needs no key.
//!
//! How it works: `run/atoll.sock` with mode 0600, bound through the open directory in /proc/self/fd, because a socket's address holds at
//! most 107 bytes and a data directory's path may be longer. What an earlier Atoll left is removed first: the data directory's
//! lock is held, so nobody listens on it.
//!
//! Deliberately absent: asking who is at the other end (the web layer does, by SO_PEERCRED).

use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tokio::net::UnixListener;

/// Removes the socket when dropped.
#[derive(Debug)]
pub(crate) struct LocalSocket {
    path: PathBuf,
}

impl Drop for LocalSocket {
    fn drop(&mut self) {
        // A stale one is no harm: nobody answers on it.
        let _ = fs::remove_file(&self.path);
    }
}

/// Binds the socket of a data directory.
pub(crate) fn bind(data: &Path) -> Result<(UnixListener, LocalSocket)> {
    let path = data.join(atoll_client::SOCKET);
    let context = || format!("cannot listen on {}", path.display());
    let parent = path.parent().unwrap_or(data);
    let dir = fs::File::open(parent).with_context(context)?;
    match fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).with_context(context),
        _ => {}
    }
    let name = path.file_name().unwrap_or_default();
    let through = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    let listener = UnixListener::bind(through).with_context(context)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).with_context(context)?;
    Ok((listener, LocalSocket { path }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_long_path_and_a_stale_socket_are_no_obstacle_and_the_mode_is_private() {
        let base = tempfile::tempdir().unwrap();
        let data = base.path().join("d".repeat(150));
        fs::create_dir_all(data.join("run")).unwrap();
        fs::write(data.join(atoll_client::SOCKET), "stale").unwrap();
        let (listener, socket) = bind(&data).unwrap();
        let path = data.join(atoll_client::SOCKET);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop((listener, socket));
        assert!(!path.exists());
    }
}
