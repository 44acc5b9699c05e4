//! Streams into a guest.
//!
//! How it works: the keeper hands out sockets that were made in the sandbox's network, sixteen at a time; connecting one reaches the
//! guest without any address or route on the host. A stream closed here is gone at once (no lingering), so that it pins
//! no namespace, and one whose guest answers no probe ends after a while; a guest that only takes nothing is waited for. One that is handed out ends with its keeper ([`Living`]): a VM
//! that is paused or killed closes nothing, and a socket that waits for its words would wait for ever.
//!
//! Deliberately absent: what is spoken over a stream.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use atoll_guest_client::{Dial, DialFuture, GuestStream};
use atoll_keeper::client::{ClientError, KeeperClient};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};

const BATCH: usize = 16;
/// How much of a console a keeper keeps.
const CONSOLE: usize = 256 * 1024;
/// After so many seconds of silence a guest is asked whether it is there, so often, so many times.
const PROBE_AFTER: u32 = 30;
const PROBE_EVERY: u32 = 10;
const PROBES: u32 = 3;

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
        tokio::select! {
            connected = tokio::time::timeout(limit, socket.connect(guest)) => connected.map_err(|_| timed_out())?,
            // Whoever ends the VM ends its keeper: nobody answers any more.
            () = self.keeper.gone() => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }

    /// The same, as a stream that ends with the keeper.
    pub(crate) async fn stream(&self, port: u16, limit: Duration) -> io::Result<GuestStream> {
        let stream = self.connect(port, limit).await?;
        let keeper = self.keeper.clone();
        Ok(Box::new(Living { stream, gone: Box::pin(async move { keeper.gone().await }), over: false }))
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

/// A connection into a VM that ends when the VM's keeper does.
struct Living {
    stream: TcpStream,
    gone: Pin<Box<dyn Future<Output = ()> + Send>>,
    over: bool,
}

impl Living {
    /// An error once the keeper is gone; whoever waits is woken then.
    fn alive(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        self.over = self.over || self.gone.as_mut().poll(context).is_ready();
        if self.over { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

impl AsyncRead for Living {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // What the guest said before is still to be read.
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Pending => self.alive(context).map_or_else(|error| Poll::Ready(Err(error)), |()| Poll::Pending),
            ready @ Poll::Ready(_) => ready,
        }
    }
}

impl AsyncWrite for Living {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.alive(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.alive(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// No TCP_USER_TIMEOUT: it counts the time in which the guest's window is closed as well, though its kernel answers every probe, and
/// so would lose the input of a process that does not read for a while.
fn prepare(socket: &OwnedFd) -> io::Result<()> {
    setsockopt(socket, sockopt::TcpNoDelay, &true)?;
    setsockopt(socket, sockopt::KeepAlive, &true)?;
    setsockopt(socket, sockopt::TcpKeepIdle, &PROBE_AFTER)?;
    setsockopt(socket, sockopt::TcpKeepInterval, &PROBE_EVERY)?;
    setsockopt(socket, sockopt::TcpKeepCount, &PROBES)?;
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
