//! Sockets in a sandbox's network namespace, without Atoll.
//!
//! How it works: a namespace is a property of a thread, and a socket stays in the one that it was made in; so a thread of its own enters the
//! namespace, makes unconnected sockets, and ends. Connecting happens outside.
//!
//! Deliberately absent: anything but IPv4.

use std::fs::File;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use atoll_guest_client::{Dial, DialFuture, GuestStream};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};
use tokio::net::{TcpSocket, TcpStream};

const BATCH: usize = 16;
const CONNECT: Duration = Duration::from_millis(250);

/// Runs work in a namespace, on a thread that ends with it.
pub(crate) fn inside<T: Send>(netns: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let entered = scope.spawn(|| {
            setns(File::open(netns)?, CloneFlags::CLONE_NEWNET)?;
            work()
        });
        entered.join().map_err(|_| anyhow!("the thread in {} died", netns.display()))?
    })
}

/// Connects to one port of one guest.
#[derive(Debug, Clone)]
pub(crate) struct Sockets {
    netns: PathBuf,
    port: u16,
    spare: Arc<Mutex<Vec<OwnedFd>>>,
}

impl Sockets {
    pub(crate) fn new(netns: PathBuf, port: u16) -> Self {
        Self { netns, port, spare: Arc::default() }
    }

    /// Connects.
    pub(crate) async fn connect(&self) -> std::io::Result<TcpStream> {
        let socket = self.take().map_err(std::io::Error::other)?;
        setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
        let socket = TcpSocket::from_std_stream(std::net::TcpStream::from(socket));
        let connected = socket.connect(SocketAddr::from((atoll_net::GUEST, self.port)));
        let late = || std::io::Error::from(std::io::ErrorKind::TimedOut);
        tokio::time::timeout(CONNECT, connected).await.map_err(|_| late())?
    }

    /// A datagram socket in there, bound to an address.
    pub(crate) fn udp(&self, at: SocketAddr) -> Result<UdpSocket> {
        inside(&self.netns, || UdpSocket::bind(at).with_context(|| format!("cannot listen on {at} in the namespace")))
    }

    fn take(&self) -> Result<OwnedFd> {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(socket) = spare.pop() {
            return Ok(socket);
        }
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let made = inside(&self.netns, || {
            let one = |_| socket(AddressFamily::Inet, SockType::Stream, flags, None);
            Ok((0..BATCH).map(one).collect::<Result<Vec<_>, _>>()?)
        })?;
        spare.extend(made);
        spare.pop().ok_or_else(|| anyhow!("no socket"))
    }
}

impl Dial for Sockets {
    fn dial(&self) -> DialFuture<'_> {
        Box::pin(async move { Ok(Box::new(self.connect().await?) as GuestStream) })
    }
}
