//! Ways into the host's network.

use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;
use std::time::Duration;

use super::{Outcome, errno};

fn named(error: &std::io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |code| format!("{:?}", nix::errno::Errno::from_raw(code)))
}

pub(crate) fn loopback(port: u16) -> Outcome {
    let address = ([127, 0, 0, 1], port).into();
    let connected = TcpStream::connect_timeout(&address, Duration::from_secs(5));
    connected.map(|_| "connected".into()).map_err(|e| named(&e))
}

pub(crate) fn abstract_socket(name: &str) -> Outcome {
    let address = SocketAddr::from_abstract_name(name.as_bytes()).map_err(|e| named(&e))?;
    UnixStream::connect_addr(&address).map(|_| "connected".into()).map_err(|e| named(&e))
}

pub(crate) fn path_socket(path: &Path) -> Outcome {
    UnixStream::connect(path).map(|_| "connected".into()).map_err(|e| named(&e))
}

pub(crate) fn open(family: i32, kind: i32) -> Outcome {
    // SAFETY: socket() takes no pointers.
    let fd = unsafe { libc::socket(family, kind, 0) };
    if fd < 0 {
        return Err(errno());
    }
    // SAFETY: the descriptor is ours.
    unsafe { libc::close(fd) };
    Ok("opened".into())
}
