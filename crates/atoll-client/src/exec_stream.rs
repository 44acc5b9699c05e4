//! Following a program: its output as it comes, its input as it is there.
//!
//! How it works: one WebSocket; every piece of output carries its offset, so that a reader whose connection was lost comes back by tag
//! and offset without losing a byte. Losing the connection does not end the program. The server tells how much input the program took, and no
//! more is sent than it has room for ([`crate::window`]): so it reads on, and hears `stop`, whatever waits.
//!
//! Deliberately absent: reconnecting by itself. Who follows decides how long to try.

use std::collections::VecDeque;
use std::time::Duration;

use atoll_api::{Encoding, ExecClientFrame, Output, PREFIX, StreamError, StreamFrame, StreamStart};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tokio::time::timeout;

use crate::socket::{Incoming, Socket};
use crate::window::Window;
use crate::{Client, ClientError};

/// Most input in one frame; the server takes frames of 256 KiB.
pub const INPUT: usize = 96 * 1024;
/// Most output that waits here for its reader while input waits for room.
const ASIDE: usize = 16 << 20;

/// What a followed program did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    /// It runs.
    Started {
        /// Its pid in the guest.
        pid: u32,
        /// Finds it again.
        tag: Option<String>,
    },
    /// It wrote to standard output.
    Stdout(Bytes),
    /// It wrote to standard error.
    Stderr(Bytes),
    /// Output that is not kept any more.
    Gap(u64),
    /// It ended with this code.
    Exit(i32),
    /// The stream cannot go on.
    Error(StreamError),
}

/// A program that is being followed.
#[derive(Debug)]
pub struct ExecStream {
    socket: Socket,
    offset: u64,
    window: Window,
    /// What came while input waited for room.
    aside: VecDeque<ExecEvent>,
    aside_bytes: usize,
}

impl Client {
    /// Starts a program and follows it.
    ///
    /// # Errors
    /// Not running, refused. What is wrong with the program comes as an event.
    pub async fn exec_stream(&self, id: &str, start: StreamStart) -> Result<ExecStream, ClientError> {
        let url = self.url(&[PREFIX.trim_start_matches('/'), "sandboxes", id, "exec", "stream"]);
        let mut socket = self.socket(url).await?;
        let start = StreamStart { input_acks: start.stdin, ..start };
        socket.send(&ExecClientFrame::Start(start)).await?;
        Ok(ExecStream::new(socket, 0))
    }

    /// Comes back to a program, from a byte of its output on; it waits for this reader while that takes what comes. How much input it takes
    /// is not told here.
    ///
    /// # Errors
    /// Not running, no such program.
    pub async fn exec_reattach(&self, id: &str, tag: &str, offset: u64) -> Result<ExecStream, ClientError> {
        let mut url = self.url(&[PREFIX.trim_start_matches('/'), "sandboxes", id, "exec", "stream"]);
        url.query_pairs_mut().append_pair("tag", tag).append_pair("offset", &offset.to_string());
        url.query_pairs_mut().append_pair("backpressure", "true");
        Ok(ExecStream::new(self.socket(url).await?, offset))
    }
}

impl ExecStream {
    /// What it did next; nothing after its end. Dropping the future loses nothing.
    ///
    /// # Errors
    /// A lost connection.
    pub async fn next(&mut self) -> Result<ExecEvent, ClientError> {
        loop {
            if let Some(event) = self.put_aside() {
                return Ok(event);
            }
            if let Some(event) = self.hear().await? {
                return Ok(event);
            }
        }
    }

    /// Waits until its input can be fed without waiting, which answers nothing; what it did before that comes first. There is no limit of
    /// time as long as the server lives: the program reads when it likes. Dropping the future loses nothing.
    ///
    /// # Errors
    /// A lost connection.
    pub async fn room(&mut self) -> Result<Option<ExecEvent>, ClientError> {
        loop {
            if let Some(event) = self.put_aside() {
                return Ok(Some(event));
            }
            // There is room again when the wire took more, or when the server says that the program did.
            let incoming = if self.window.has_room(INPUT) {
                match self.socket.next_or_room().await? {
                    Some(incoming) => incoming,
                    None => return Ok(None),
                }
            } else {
                self.socket.next().await?
            };
            if let Some(event) = self.event(incoming)? {
                return Ok(Some(event));
            }
        }
    }

    fn put_aside(&mut self) -> Option<ExecEvent> {
        let event = self.aside.pop_front()?;
        self.aside_bytes -= size(&event);
        Some(event)
    }

    fn new(socket: Socket, offset: u64) -> Self {
        Self { socket, offset, window: Window::default(), aside: VecDeque::new(), aside_bytes: 0 }
    }

    /// What came; nothing if it was only about input.
    async fn hear(&mut self) -> Result<Option<ExecEvent>, ClientError> {
        let incoming = self.socket.next().await?;
        self.event(incoming)
    }

    fn event(&mut self, incoming: Incoming<StreamFrame>) -> Result<Option<ExecEvent>, ClientError> {
        let frame = match incoming {
            Incoming::Frame(frame) => frame,
            Incoming::Bytes(_) | Incoming::Closed => return Err(self.socket.cut()),
        };
        Ok(Some(match frame {
            StreamFrame::Start { pid, tag, offset, input_window } => {
                self.offset = self.offset.max(offset);
                self.window.open(input_window);
                ExecEvent::Started { pid, tag }
            }
            StreamFrame::InputTaken { bytes } => {
                self.window.taken(bytes);
                return Ok(None);
            }
            StreamFrame::Stdout(output) => ExecEvent::Stdout(self.take(&output)?),
            StreamFrame::Stderr(output) => ExecEvent::Stderr(self.take(&output)?),
            StreamFrame::Gap { bytes, offset } => {
                self.offset = offset + bytes;
                ExecEvent::Gap(bytes)
            }
            StreamFrame::Exit { exit_code, .. } => {
                self.window.open(None);
                ExecEvent::Exit(exit_code)
            }
            StreamFrame::Error(error) => {
                self.window.open(None);
                ExecEvent::Error(error)
            }
        }))
    }

    /// How much of its output was taken.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    fn take(&mut self, output: &Output) -> Result<Bytes, ClientError> {
        let bytes = decode(&output.data, output.encoding).ok_or_else(|| self.socket.cut())?;
        self.offset = output.offset + bytes.len() as u64;
        Ok(bytes)
    }

    /// Whether its input can be fed without waiting.
    pub fn has_room(&self) -> bool {
        self.socket.has_room() && self.window.has_room(INPUT)
    }

    /// Feeds its standard input; it goes out while [`ExecStream::next`] or [`ExecStream::room`] listens. Whoever does not listen meanwhile
    /// waits for room here, and finds there what the program did in the meantime; [`INPUT`] bytes where there is room do not wait.
    ///
    /// # Errors
    /// A lost connection.
    pub async fn input(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        for piece in bytes.chunks(INPUT) {
            while !self.window.has_room(piece.len()) {
                self.set_aside().await?;
            }
            self.window.sent(piece.len());
            let frame = ExecClientFrame::Stdin { data: STANDARD.encode(piece), encoding: Encoding::Base64 };
            self.socket.queue(&frame).await?;
        }
        Ok(())
    }

    async fn set_aside(&mut self) -> Result<(), ClientError> {
        if let Some(event) = self.hear().await? {
            self.aside_bytes += size(&event);
            self.aside.push_back(event);
        }
        if self.aside_bytes > ASIDE { Err(self.socket.stuck()) } else { Ok(()) }
    }

    /// Closes its standard input behind what was fed.
    ///
    /// # Errors
    /// A lost connection.
    pub async fn close_input(&mut self) -> Result<(), ClientError> {
        self.socket.queue(&ExecClientFrame::CloseStdin).await
    }

    /// Kills it, with its process group, and waits until it has ended, at most so long; answers whether it has.
    pub async fn end(&mut self, limit: Duration) -> bool {
        let all = async {
            self.stop().await?;
            while !matches!(self.next().await?, ExecEvent::Exit(_) | ExecEvent::Error(_)) {}
            Ok::<_, ClientError>(())
        };
        matches!(timeout(limit, all).await, Ok(Ok(())))
    }

    /// Kills it, with its process group.
    ///
    /// # Errors
    /// A lost connection.
    pub async fn stop(&mut self) -> Result<(), ClientError> {
        self.socket.send(&ExecClientFrame::Stop).await
    }

    /// Stops following; the program lives on.
    pub async fn close(mut self) {
        self.socket.close().await;
    }
}

fn size(event: &ExecEvent) -> usize {
    match event {
        ExecEvent::Stdout(bytes) | ExecEvent::Stderr(bytes) => bytes.len(),
        _ => 0,
    }
}

pub(crate) fn decode(data: &str, encoding: Encoding) -> Option<Bytes> {
    match encoding {
        Encoding::Utf8 => Some(Bytes::copy_from_slice(data.as_bytes())),
        Encoding::Base64 => STANDARD.decode(data).ok().map(Bytes::from),
    }
}
