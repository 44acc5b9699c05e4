//! One connection of the host agent, or of whoever looks.
//!
//! How it works: bytes come in and are cut into lines, lines wait to go out with their descriptors; both sides are bounded, and a
//! peer that breaks a bound is dropped, never waited for.
//!
//! Deliberately absent: what a line means.

use std::collections::VecDeque;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;

use crate::protocol::{Line, MAX_LINE, MAX_STREAMS, OLDEST};
use crate::wire;

/// Most bytes that wait for a slow reader.
const MAX_OUTPUT: usize = 2 * 1024 * 1024;

/// Bytes that wait, beyond which events are left out; the state can be asked for.
const MAX_MENTIONS: usize = 16 * 1024;

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    /// Never used twice.
    pub(super) number: u64,
    pub(super) socket: UnixStream,
    /// What `hello` settled on.
    pub(super) version: u32,
    input: Vec<u8>,
    /// Came along and belong to the next request that takes any.
    descriptors: VecDeque<OwnedFd>,
    output: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    waiting: usize,
    /// To be dropped when everything is written, or at once if nothing can be.
    pub(super) closing: bool,
}

impl Connection {
    pub(super) fn new(number: u64, socket: UnixStream) -> Self {
        let (descriptors, output) = (VecDeque::new(), VecDeque::new());
        Self { number, socket, version: OLDEST, input: Vec::new(), descriptors, output, waiting: 0, closing: false }
    }

    pub(super) fn wants_to_write(&self) -> bool {
        !self.output.is_empty()
    }

    /// Whether it has nothing more to do.
    pub(super) fn is_over(&self) -> bool {
        self.closing && self.output.is_empty()
    }

    /// Reads what is there and answers the whole lines; `Err` when the peer is gone or talks too much.
    pub(super) fn read(&mut self) -> Result<Vec<Vec<u8>>, ()> {
        let mut buffer = [0; 16 * 1024];
        let received = match wire::receive(self.socket.as_fd(), &mut buffer) {
            Ok((0, _)) => return Err(()),
            Ok((n, descriptors)) => {
                self.descriptors.extend(descriptors);
                n
            }
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Vec::new()),
            Err(_) => return Err(()),
        };
        self.input.extend_from_slice(&buffer[..received]);
        let mut lines = Vec::new();
        while let Some(end) = self.input.iter().position(|b| *b == b'\n') {
            let rest = self.input.split_off(end + 1);
            lines.push(std::mem::replace(&mut self.input, rest));
        }
        let within = self.input.len() <= MAX_LINE && self.descriptors.len() <= MAX_STREAMS;
        if within { Ok(lines) } else { Err(()) }
    }

    /// The descriptors that came with a request; none when there are fewer.
    pub(super) fn take_descriptors(&mut self, count: usize) -> Option<Vec<OwnedFd>> {
        (self.descriptors.len() >= count).then(|| self.descriptors.drain(..count).collect())
    }

    /// Queues a line that may be lost: a VMM that makes events without end must not cost its keeper the claimant.
    pub(super) fn mention(&mut self, line: &Line) {
        if self.waiting < MAX_MENTIONS {
            self.say(line, Vec::new());
        }
    }

    /// Queues a line and its descriptors.
    pub(super) fn say(&mut self, line: &Line, descriptors: Vec<OwnedFd>) {
        let Ok(mut bytes) = serde_json::to_vec(line) else { return };
        bytes.push(b'\n');
        self.waiting += bytes.len();
        self.output.push_back((bytes, descriptors));
        if self.waiting > MAX_OUTPUT {
            self.output.clear();
            self.closing = true;
        }
    }

    /// Writes what the socket takes.
    pub(super) fn write(&mut self) {
        while let Some((bytes, descriptors)) = self.output.front_mut() {
            let raw: Vec<RawFd> = descriptors.iter().map(|fd| fd.as_raw_fd()).collect();
            match wire::send(self.socket.as_fd(), bytes, &raw) {
                Ok(n) => {
                    descriptors.clear();
                    self.waiting = self.waiting.saturating_sub(n);
                    if n == bytes.len() {
                        self.output.pop_front();
                    } else {
                        bytes.drain(..n);
                    }
                }
                Err(Errno::EAGAIN | Errno::EINTR) => return,
                Err(_) => {
                    self.output.clear();
                    self.closing = true;
                }
            }
        }
    }
}
