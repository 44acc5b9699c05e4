//! The host agent's end of a keeper's socket.
//!
//! How it works: one task owns the connection, writes requests and hands answers to whoever asked; [`KeeperClient`] is the cheap
//! handle to it. Every request has a deadline. Events go into a bounded channel; they are few, and one that does not fit
//! means that nobody listens any more.
//!
//! Deliberately absent: reconnecting. A lost connection ends the task; the sandbox's actor claims anew or gives up.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::protocol::{Answer, Event, Line, MAX_LINE, Op, Refusal, Request, SOCKET, State, VERSION};
use crate::wire;

/// How long a request may take; QEMU's own deadline in the keeper is shorter.
const DEADLINE: Duration = Duration::from_secs(15);
const REQUESTS: usize = 64;
const EVENTS: usize = 64;

/// Why a keeper did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The socket cannot be reached.
    #[error("cannot reach the keeper")]
    Connect(#[source] std::io::Error),
    /// The connection has ended.
    #[error("the keeper is gone")]
    Gone,
    /// It did not answer in time.
    #[error("the keeper did not answer `{0}` within 15 s")]
    Timeout(&'static str),
    /// It refused.
    #[error("the keeper refused: {0}")]
    Refused(Refusal),
    /// It answered something else than was asked.
    #[error("the keeper's answer does not fit `{0}`")]
    Unexpected(&'static str),
    /// It keeps another sandbox.
    #[error("the keeper in this directory keeps {0}")]
    Foreign(String),
}

struct Pending {
    op: Op,
    reply: oneshot::Sender<Result<(Answer, Vec<OwnedFd>), Refusal>>,
}

/// A handle to a keeper; clones share its connection.
#[derive(Debug, Clone)]
pub struct KeeperClient {
    requests: mpsc::Sender<Pending>,
}

/// A connection: the handle, what the keeper says by itself, and the task that carries both.
#[derive(Debug)]
pub struct Connected {
    /// The handle.
    pub client: KeeperClient,
    /// The keeper's own words; ends with the connection.
    pub events: mpsc::Receiver<Event>,
    /// Ends when the connection does or the last handle is dropped.
    pub task: JoinHandle<()>,
}

/// Connects to the keeper in a sandbox's directory and settles the version.
///
/// # Errors
/// When there is none, it speaks no common version, or it keeps another sandbox.
pub async fn connect(dir: &Path, sandbox: &str) -> Result<Connected, ClientError> {
    // Through a descriptor of the directory: its path may be longer than a socket's name can be.
    let handle = File::open(dir).map_err(ClientError::Connect)?;
    let path = format!("/proc/self/fd/{}/{SOCKET}", handle.as_raw_fd());
    let socket = UnixStream::connect(path).await.map_err(ClientError::Connect)?;
    let (requests, received) = mpsc::channel(REQUESTS);
    let (event_sender, events) = mpsc::channel(EVENTS);
    let task = tokio::spawn(carry(socket, received, event_sender));
    let client = KeeperClient { requests };
    let connected = Connected { client, events, task };
    match connected.client.ask(Op::Hello { version: VERSION }).await? {
        (Answer::Hello { sandbox: found, .. }, _) if found == sandbox => Ok(connected),
        (Answer::Hello { sandbox: found, .. }, _) => Err(ClientError::Foreign(found)),
        _ => Err(ClientError::Unexpected("hello")),
    }
}

impl KeeperClient {
    async fn ask(&self, op: Op) -> Result<(Answer, Vec<OwnedFd>), ClientError> {
        let name = op.name();
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            self.requests.send(Pending { op, reply }).await.map_err(|_| ClientError::Gone)?;
            answer.await.map_err(|_| ClientError::Gone)?.map_err(ClientError::Refused)
        };
        tokio::time::timeout(DEADLINE, exchange).await.map_err(|_| ClientError::Timeout(name))?
    }

    async fn command(&self, op: Op) -> Result<(), ClientError> {
        self.ask(op).await.map(drop)
    }

    /// Takes the keeper over.
    ///
    /// # Errors
    /// `stale_claim` when a greater number came before.
    pub async fn claim(&self, number: u64) -> Result<(), ClientError> {
        self.command(Op::Claim { number }).await
    }

    /// Where things stand.
    ///
    /// # Errors
    /// When the keeper is gone or silent.
    pub async fn state(&self) -> Result<State, ClientError> {
        match self.ask(Op::State).await? {
            (Answer::State(state), _) => Ok(*state),
            _ => Err(ClientError::Unexpected("state")),
        }
    }

    /// Leaves secrets in the keeper's memory.
    ///
    /// # Errors
    /// When the keeper is gone or silent.
    pub async fn put_secrets(&self, secrets: String) -> Result<(), ClientError> {
        self.command(Op::SecretsPut { secrets }).await
    }

    /// Asks for them back.
    ///
    /// # Errors
    /// When the keeper is gone or silent.
    pub async fn secrets(&self) -> Result<Option<String>, ClientError> {
        match self.ask(Op::SecretsGet).await? {
            (Answer::Secrets(secrets), _) => Ok(secrets),
            _ => Err(ClientError::Unexpected("secrets_get")),
        }
    }

    /// Stops the virtual CPUs.
    ///
    /// # Errors
    /// When the VMM is gone or silent.
    pub async fn pause(&self) -> Result<(), ClientError> {
        self.command(Op::Pause).await
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// When the VMM is gone or silent.
    pub async fn resume(&self) -> Result<(), ClientError> {
        self.command(Op::Resume).await
    }

    /// Kills the VMM; one that has ended is no error.
    ///
    /// # Errors
    /// When the keeper is gone or silent.
    pub async fn kill(&self) -> Result<(), ClientError> {
        self.command(Op::Kill).await
    }

    /// Ends the keeper.
    ///
    /// # Errors
    /// When it is silent.
    pub async fn exit(&self) -> Result<(), ClientError> {
        self.command(Op::Exit).await
    }

    /// Sockets made in the sandbox's network, not connected.
    ///
    /// # Errors
    /// When the keeper is gone or silent.
    pub async fn streams(&self, count: usize) -> Result<Vec<OwnedFd>, ClientError> {
        match self.ask(Op::Streams { count }).await? {
            (Answer::Streams(n), descriptors) if n == descriptors.len() => Ok(descriptors),
            _ => Err(ClientError::Unexpected("streams")),
        }
    }

    /// The console from an offset: where the bytes really begin, and at most 64 KiB of them.
    ///
    /// # Errors
    /// When the keeper is gone or silent.
    pub async fn console(&self, from: u64) -> Result<(u64, Vec<u8>), ClientError> {
        match self.ask(Op::Console { from }).await? {
            (Answer::Console { from, data }, _) => {
                let bytes = data
                    .as_bytes()
                    .chunks(2)
                    .map(|pair| std::str::from_utf8(pair).ok().and_then(|text| u8::from_str_radix(text, 16).ok()));
                let bytes: Option<Vec<u8>> = bytes.collect();
                bytes.map(|bytes| (from, bytes)).ok_or(ClientError::Unexpected("console"))
            }
            _ => Err(ClientError::Unexpected("console")),
        }
    }
}

type Replies = HashMap<u64, oneshot::Sender<Result<(Answer, Vec<OwnedFd>), Refusal>>>;

/// Carries one connection until it ends or nobody holds a handle.
async fn carry(socket: UnixStream, mut requests: mpsc::Receiver<Pending>, events: mpsc::Sender<Event>) {
    let mut replies = Replies::new();
    let mut input = Vec::new();
    let mut descriptors = VecDeque::new();
    let mut next_id = 1;
    loop {
        tokio::select! {
            request = requests.recv() => {
                let Some(Pending { op, reply }) = request else { return };
                let id = next_id;
                next_id += 1;
                replies.retain(|_, waiting| !waiting.is_closed());
                replies.insert(id, reply);
                if write(&socket, &Request { id, op }).await.is_err() {
                    return;
                }
            }
            readable = socket.readable() => {
                if readable.is_err() || !read(&socket, &mut input, &mut descriptors) {
                    return;
                }
                while let Some(end) = input.iter().position(|b| *b == b'\n') {
                    let line: Vec<u8> = input.drain(..=end).collect();
                    if !hear(&line, &mut replies, &mut descriptors, &events) {
                        return;
                    }
                }
            }
        }
    }
}

async fn write(socket: &UnixStream, request: &Request) -> std::io::Result<()> {
    let mut bytes = serde_json::to_vec(request)?;
    bytes.push(b'\n');
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        socket.writable().await?;
        match socket.try_write(rest) {
            Ok(n) => rest = &rest[n..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Takes what is there; false when the connection is over.
fn read(socket: &UnixStream, input: &mut Vec<u8>, descriptors: &mut VecDeque<OwnedFd>) -> bool {
    let mut buffer = [0; 16 * 1024];
    let received = socket.try_io(tokio::io::Interest::READABLE, || {
        wire::receive(socket.as_fd(), &mut buffer).map_err(std::io::Error::from)
    });
    match received {
        Ok((0, _)) => false,
        Ok((n, found)) => {
            input.extend_from_slice(&buffer[..n]);
            descriptors.extend(found);
            input.len() <= MAX_LINE + buffer.len()
        }
        Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
    }
}

/// Gives a line to whoever waits for it; false when it is none of the protocol's.
fn hear(line: &[u8], replies: &mut Replies, descriptors: &mut VecDeque<OwnedFd>, events: &mpsc::Sender<Event>) -> bool {
    let (id, outcome) = match serde_json::from_slice(line) {
        Ok(Line::Done { id, ok }) => {
            let count = if let Answer::Streams(n) = ok { n.min(descriptors.len()) } else { 0 };
            (id, Ok((ok, descriptors.drain(..count).collect())))
        }
        Ok(Line::Failed { id, error }) => (id, Err(error)),
        Ok(Line::Event { event }) => {
            // Nobody listens any more, or far too slowly: the state can be asked for.
            let _ = events.try_send(event);
            return true;
        }
        Err(_) => return false,
    };
    if let Some(reply) = replies.remove(&id) {
        // The asker has gone; a socket that it would have got is closed.
        let _ = reply.send(outcome);
    }
    true
}
