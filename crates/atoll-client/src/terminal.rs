//! A program on a terminal in a sandbox.
//!
//! How it works: one WebSocket with the bytes of the terminal as binary frames and everything else as JSON. Output is counted from the
//! offset in `started`, so that a lost connection is taken up where it broke, by tag and offset.
//!
//! Deliberately absent: the local terminal (the command line's).

use atoll_api::{Encoding, PREFIX, PtyClientFrame, PtyFrame, PtyStart, StreamError};
use bytes::Bytes;

use crate::exec_stream::decode;
use crate::socket::{Incoming, Socket};
use crate::{Client, ClientError};

/// What happened on a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TerminalEvent {
    /// It runs.
    Started {
        /// Comes back to it.
        tag: String,
    },
    /// It wrote.
    Output(Bytes),
    /// Output that is not kept any more.
    Gap(u64),
    /// The program ended with this code.
    Exit(i32),
    /// The session cannot go on.
    Error(StreamError),
}

/// An open terminal.
#[derive(Debug)]
pub struct Terminal {
    socket: Socket,
    offset: u64,
}

impl Client {
    /// Starts a program on a new terminal.
    ///
    /// # Errors
    /// Not running, refused. What is wrong with the program comes as an event.
    pub async fn terminal(&self, id: &str, start: PtyStart) -> Result<Terminal, ClientError> {
        self.open_terminal(id, &PtyClientFrame::Start(start)).await
    }

    /// Comes back to a terminal, from a byte of its output on; its program waits for this reader while that takes what comes.
    ///
    /// # Errors
    /// Not running, refused.
    pub async fn terminal_reattach(&self, id: &str, tag: &str, offset: u64) -> Result<Terminal, ClientError> {
        self.open_terminal(id, &PtyClientFrame::Connect { tag: tag.to_owned(), offset, backpressure: true }).await
    }

    async fn open_terminal(&self, id: &str, first: &PtyClientFrame) -> Result<Terminal, ClientError> {
        let mut url = self.url(&[PREFIX.trim_start_matches('/'), "sandboxes", id, "pty"]);
        url.query_pairs_mut().append_pair("wire", "binary");
        let mut socket = self.socket(url).await?;
        socket.send(first).await?;
        Ok(Terminal { socket, offset: 0 })
    }
}

impl Terminal {
    /// What happened next. Dropping the future loses nothing.
    ///
    /// # Errors
    /// A lost connection.
    pub async fn next(&mut self) -> Result<TerminalEvent, ClientError> {
        loop {
            let frame = match self.socket.next::<PtyFrame>().await? {
                Incoming::Frame(frame) => frame,
                Incoming::Bytes(bytes) => {
                    self.offset += bytes.len() as u64;
                    return Ok(TerminalEvent::Output(bytes));
                }
                Incoming::Closed => return Err(self.socket.cut()),
            };
            return Ok(match frame {
                PtyFrame::Started { tag, offset, .. } => {
                    self.offset = offset;
                    TerminalEvent::Started { tag }
                }
                PtyFrame::Output { data, offset } => {
                    let bytes = decode(&data, Encoding::Base64).ok_or_else(|| self.socket.cut())?;
                    self.offset = offset + bytes.len() as u64;
                    TerminalEvent::Output(bytes)
                }
                PtyFrame::Gap { bytes, offset } => {
                    self.offset = offset + bytes;
                    TerminalEvent::Gap(bytes)
                }
                PtyFrame::Exit { exit_code } => TerminalEvent::Exit(exit_code),
                PtyFrame::Error(error) => TerminalEvent::Error(error),
                PtyFrame::Ping => {
                    self.socket.send(&PtyClientFrame::Pong).await?;
                    continue;
                }
            });
        }
    }

    /// How much of its output was taken.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Keystrokes.
    ///
    /// # Errors
    /// A lost connection.
    pub async fn input(&mut self, bytes: Bytes) -> Result<(), ClientError> {
        self.socket.send_bytes(bytes).await
    }

    /// The terminal has another size.
    ///
    /// # Errors
    /// A lost connection.
    pub async fn resize(&mut self, cols: u16, rows: u16) -> Result<(), ClientError> {
        self.socket.send(&PtyClientFrame::Resize { cols, rows }).await
    }

    /// Leaves; the program lives on.
    pub async fn close(mut self) {
        self.socket.close().await;
    }
}
