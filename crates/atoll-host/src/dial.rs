//! Streams into a guest.
//!
//! How it works: the keeper hands out sockets that were made in the sandbox's network, sixteen at a time; connecting one reaches the
//! guest without any address or route on the host. A stream closed here is gone at once (no lingering), so that it pins
//! no namespace, and one whose peer is silent ends after a while.
//!
//! Deliberately absent: what is spoken over a stream.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use atoll_guest_client::{Dial, DialFuture, GuestStream};
use atoll_keeper::client::{ClientError, KeeperClient};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpSocket, TcpStream};

const BATCH: usize = 16;
/// How much of a console a keeper keeps.
const CONSOLE: usize = 256 * 1024;
/// Unanswered data for so long ends a stream.
const USER_TIMEOUT_MS: u32 = 60_000;

/// Makes streams into one sandbox.
#[derive(Debug, Clone)]
pub(crate) struct Sockets {
    keeper: KeeperClient,
    spare: Arc<Mutex<Vec<OwnedFd>>>,
}

impl Sockets {
    pub(crate) fn new(keeper: KeeperClient) -> Self {
        Self { keeper, spare: Arc::default() }
    }

    /// Connects to a port of the guest.
    pub(crate) async fn connect(&self, port: u16, limit: Duration) -> io::Result<TcpStream> {
        let socket = self.take().await?;
        prepare(&socket)?;
        let stream = std::net::TcpStream::from(socket);
        let socket = TcpSocket::from_std_stream(stream);
        let guest = SocketAddr::from((atoll_net::GUEST, port));
        let timed_out = || io::Error::from(io::ErrorKind::TimedOut);
        tokio::time::timeout(limit, socket.connect(guest)).await.map_err(|_| timed_out())?
    }

    /// What the console said last.
    pub(crate) async fn console(&self) -> Result<Vec<u8>, ClientError> {
        let (mut all, mut from) = (Vec::new(), 0);
        // A guest that prints without end is not followed: what it said when this began is the answer.
        while all.len() < CONSOLE {
            let (begin, piece) = self.keeper.console(from).await?;
            if piece.is_empty() {
                break;
            }
            from = begin + piece.len() as u64;
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    async fn take(&self) -> io::Result<OwnedFd> {
        let spare = || self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let found = spare().pop();
        if let Some(socket) = found {
            return Ok(socket);
        }
        let mut fresh = self.keeper.streams(BATCH).await.map_err(io::Error::other)?;
        let socket = fresh.pop().ok_or_else(|| io::Error::other("the keeper sent no socket"))?;
        spare().extend(fresh);
        Ok(socket)
    }
}

fn prepare(socket: &OwnedFd) -> io::Result<()> {
    setsockopt(socket, sockopt::TcpNoDelay, &true)?;
    setsockopt(socket, sockopt::TcpUserTimeout, &USER_TIMEOUT_MS)?;
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(socket, sockopt::Linger, &linger)?;
    Ok(())
}

/// Dials one port, for the guest client.
#[derive(Debug)]
pub(crate) struct PortDial {
    pub(crate) sockets: Sockets,
    pub(crate) port: u16,
    pub(crate) limit: Duration,
}

impl Dial for PortDial {
    fn dial(&self) -> DialFuture<'_> {
        Box::pin(async move {
            let stream = self.sockets.connect(self.port, self.limit).await?;
            Ok(Box::new(stream) as GuestStream)
        })
    }
}
