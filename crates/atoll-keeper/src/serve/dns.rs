//! Answering the guest's names.
//!
//! How it works: a datagram from the guest gets a fresh random id and goes to a resolver of the host, through a socket that was
//! made in the host's network; the answer goes back under the old id. At most 64 are pending; one that is not answered in two
//! seconds is tried once at the next resolver, which is asked first from then on.
//!
//! Deliberately absent: reading names, caching, DNS over TCP.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use crate::jail::Dns;

const MAX_PENDING: usize = 64;
const RETRY: Duration = Duration::from_secs(2);
/// Datagrams taken in one round, so that a flood does not hold the keeper up.
const SLICE: usize = 32;
/// Larger than any EDNS size that is used.
const MAX_DATAGRAM: usize = 4096;
const HEADER: usize = 12;

#[derive(Debug)]
struct Pending {
    id: [u8; 2],
    asked_as: [u8; 2],
    asker: SocketAddr,
    query: Vec<u8>,
    upstream: usize,
    deadline: Instant,
    retried: bool,
}

/// The forwarder of one sandbox.
#[derive(Debug)]
pub(super) struct Forwarder {
    sockets: Dns,
    pending: Vec<Pending>,
    preferred: usize,
}

impl Forwarder {
    pub(super) fn new(sockets: Dns) -> Self {
        Self { sockets, pending: Vec::new(), preferred: 0 }
    }

    /// What is to be polled: the guest's socket first.
    pub(super) fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let upstream = self.sockets.upstream.iter().map(AsFd::as_fd);
        [self.sockets.guest.as_fd()].into_iter().chain(upstream).collect()
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.pending.iter().map(|p| p.deadline).min()
    }

    /// Takes what the guest asks.
    pub(super) fn ask(&mut self, now: Instant) {
        let mut buffer = [0; MAX_DATAGRAM];
        for _ in 0..SLICE {
            let Ok((n, asker)) = self.sockets.guest.recv_from(&mut buffer) else { return };
            let is_query = n >= HEADER && buffer[2] & 0x80 == 0;
            if !is_query {
                continue;
            }
            if self.pending.len() >= MAX_PENDING {
                self.pending.remove(0);
            }
            let id = random_id();
            let query = [&id[..], &buffer[2..n]].concat();
            let upstream = self.preferred;
            // A resolver that refuses is found by the deadline.
            let _ = self.sockets.upstream[upstream].send(&query);
            let asked_as = [buffer[0], buffer[1]];
            let deadline = now + RETRY;
            self.pending.push(Pending { id, asked_as, asker, query, upstream, deadline, retried: false });
        }
    }

    /// Takes what a resolver answers.
    pub(super) fn answer(&mut self, upstream: usize) {
        let mut buffer = [0; MAX_DATAGRAM];
        for _ in 0..SLICE {
            let Ok(n) = self.sockets.upstream[upstream].recv(&mut buffer) else { return };
            let matches = |p: &Pending| n >= HEADER && p.id == [buffer[0], buffer[1]] && p.upstream == upstream;
            let Some(index) = self.pending.iter().position(matches) else { continue };
            let asked = self.pending.swap_remove(index);
            buffer[..2].copy_from_slice(&asked.asked_as);
            // A guest that does not listen any more loses its answer.
            let _ = self.sockets.guest.send_to(&buffer[..n], asked.asker);
        }
    }

    /// Asks the next resolver for what took too long, and forgets what took too long there too.
    pub(super) fn expire(&mut self, now: Instant) {
        let count = self.sockets.upstream.len();
        self.pending.retain(|p| p.deadline > now || !p.retried);
        for asked in self.pending.iter_mut().filter(|p| p.deadline <= now) {
            asked.upstream = (asked.upstream + 1) % count;
            self.preferred = asked.upstream;
            asked.retried = true;
            asked.deadline = now + RETRY;
            // As above.
            let _ = self.sockets.upstream[asked.upstream].send(&asked.query);
        }
    }
}

/// Unpredictable, so that nobody off the path can answer in a resolver's place.
fn random_id() -> [u8; 2] {
    let mut id = [0u8; 2];
    // SAFETY: the pointer and length describe a live buffer; two bytes are always given at once.
    unsafe { libc::getrandom(id.as_mut_ptr().cast(), id.len(), 0) };
    id
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    fn socket() -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    }

    /// A forwarder, the guest's end and two resolvers.
    fn setting() -> (Forwarder, UdpSocket, [UdpSocket; 2]) {
        let (guest_side, guest, resolvers) = (socket(), socket(), [socket(), socket()]);
        guest.connect(guest_side.local_addr().unwrap()).unwrap();
        guest_side.set_nonblocking(true).unwrap();
        let upstream = resolvers.iter().map(|resolver| {
            let to = socket();
            to.connect(resolver.local_addr().unwrap()).unwrap();
            to.set_nonblocking(true).unwrap();
            to
        });
        let dns = Dns { guest: guest_side, upstream: upstream.collect() };
        (Forwarder::new(dns), guest, resolvers)
    }

    /// Loopback delivers before `send` returns, so one round suffices.
    #[test]
    fn an_answer_comes_back_under_the_guests_own_id() {
        let (mut forwarder, guest, [resolver, _]) = setting();
        guest.send(b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0name").unwrap();
        forwarder.ask(Instant::now());
        let mut buffer = [0; 64];
        let (n, from) = resolver.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[2..n], b"\x01\0\0\x01\0\0\0\0\0\0name");
        resolver.send_to(b"\0\0\x81\0\0\0\0\0\0\0\0\0forged", from).unwrap();
        buffer[2] = 0x81;
        resolver.send_to(&buffer[..n], from).unwrap();
        forwarder.answer(0);
        let n = guest.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"\x12\x34\x81\0\0\x01\0\0\0\0\0\0name");
        assert_eq!(forwarder.deadline(), None);
    }

    #[test]
    fn a_silent_resolver_is_replaced_and_pending_questions_are_bounded() {
        let (mut forwarder, guest, [_, second]) = setting();
        let now = Instant::now();
        guest.send(b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0name").unwrap();
        forwarder.ask(now);
        forwarder.expire(now + RETRY);
        let mut buffer = [0; 64];
        let (n, from) = second.recv_from(&mut buffer).unwrap();
        second.send_to(&buffer[..n], from).unwrap();
        forwarder.answer(1);
        assert_eq!(guest.recv(&mut buffer).unwrap(), n);
        assert_eq!(forwarder.preferred, 1);
        for _ in 0..MAX_PENDING * 2 {
            guest.send(b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0name").unwrap();
            forwarder.ask(now);
        }
        assert_eq!(forwarder.pending.len(), MAX_PENDING);
        guest.send(b"short").unwrap();
        forwarder.ask(now);
        assert_eq!(forwarder.pending.len(), MAX_PENDING);
        forwarder.expire(now + RETRY);
        forwarder.expire(now + RETRY * 2);
        assert!(forwarder.pending.is_empty());
    }
}
