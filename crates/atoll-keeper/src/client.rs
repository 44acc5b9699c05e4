//! The host agent's end of a keeper's socket.
//!
//! How it works: one task owns the connection, writes requests and hands answers to whoever asked; [`KeeperClient`] is the cheap
//! handle to it. Every request has a deadline. Events go into a bounded channel; they are few, and one that does not fit
//! means that nobody listens any more.
//!
//! Deliberately absent: reconnecting. A lost connection ends the task; the sandbox's actor claims anew or gives up.

use std::collections::{HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::protocol::{
    Answer, Event, Line, MAX_LINE, OLDEST, Op, Refusal, Request, SOCKET, Snapshot, State, Then, VERSION,
};
use crate::wire;

mod process;

pub use process::KeeperProcess;

/// How long a request may take; QEMU's own deadline in the keeper is shorter.
const DEADLINE: Duration = Duration::from_secs(15);
/// How long a snapshot may take: reading and writing memory, and a disk that is busy.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(600);
/// How long a restore may take: reading and hashing the diff, and QEMU.
const RESTORE_DEADLINE: Duration = Duration::from_secs(120);
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
    #[error("the keeper did not answer `{0}` in time")]
    Timeout(&'static str),
    /// It is of an earlier Atoll that did not know such requests.
    #[error("the keeper speaks protocol version {found}, `{op}` came with version {needed}")]
    TooOld {
        /// What was asked.
        op: &'static str,
        /// What was settled on.
        found: u32,
        /// What it takes.
        needed: u32,
    },
    /// The files of a snapshot cannot be made.
    #[error("cannot prepare the files of a snapshot")]
    Files(#[source] std::io::Error),
    /// It refused.
    #[error("the keeper refused: {0}")]
    Refused(Refusal),
    /// It answered something else than was asked.
    #[error("the keeper's answer does not fit `{0}`")]
    Unexpected(&'static str),
    /// It speaks no version of the protocol that is known here.
    #[error("the keeper speaks another version of the protocol: {0}")]
    Version(String),
    /// It keeps another sandbox.
    #[error("the keeper in this directory keeps {0}")]
    Foreign(String),
}

struct Pending {
    op: Op,
    /// What goes along.
    descriptors: Vec<OwnedFd>,
    reply: oneshot::Sender<Result<(Answer, Vec<OwnedFd>), Refusal>>,
}

/// A handle to a keeper; clones share its connection.
#[derive(Debug, Clone)]
pub struct KeeperClient {
    requests: mpsc::Sender<Pending>,
    version: u32,
}

/// The files that a snapshot is written into: `state` and `diff` of one directory.
#[derive(Debug)]
pub struct SnapshotFiles {
    /// The state of the devices, opened for writing alone: QEMU takes nothing else.
    state_out: File,
    /// The same file for reading.
    state: File,
    /// The memory that differs from the base, for both.
    diff: File,
}

impl SnapshotFiles {
    /// Makes both files, mode 0600; none of them may be there. Their names are on disk only when the caller has synced the
    /// directory. Blocks.
    ///
    /// # Errors
    /// What the file system says.
    pub fn create(dir: &Path) -> Result<Self, ClientError> {
        let make = |name: &str, read: bool| {
            let mut options = OpenOptions::new();
            options.write(true).read(read).create_new(true).mode(0o600).open(dir.join(name)).map_err(ClientError::Files)
        };
        let (state_out, diff) = (make(STATE_FILE, false)?, make(DIFF_FILE, true)?);
        let state = File::open(dir.join(STATE_FILE)).map_err(ClientError::Files)?;
        Ok(Self { state_out, state, diff })
    }
}

/// The name of the device state in a snapshot's directory.
pub const STATE_FILE: &str = "state";
/// The name of the memory diff there.
pub const DIFF_FILE: &str = "diff";

/// A connection: the handle, what the keeper says by itself, and the task that carries both.
#[derive(Debug)]
pub struct Connected {
    /// The handle.
    pub client: KeeperClient,
    /// The keeper's own words; ends with the connection.
    pub events: mpsc::Receiver<Event>,
    /// Ends when the connection does or the last handle is dropped.
    pub task: JoinHandle<()>,
    /// Who listens at the other end, by the kernel's word.
    pub pid: Option<u32>,
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
    let pid = socket.peer_cred().ok().and_then(|peer| peer.pid()).and_then(|pid| u32::try_from(pid).ok());
    let (requests, received) = mpsc::channel(REQUESTS);
    let (event_sender, events) = mpsc::channel(EVENTS);
    let task = tokio::spawn(carry(socket, received, event_sender));
    let client = KeeperClient { requests, version: OLDEST };
    let mut connected = Connected { client, events, task, pid };
    match connected.client.ask(Op::Hello { version: VERSION }).await {
        Ok((Answer::Hello { version, .. }, _)) if !(OLDEST..=VERSION).contains(&version) => {
            Err(ClientError::Version(format!("it speaks {version}, this Atoll {OLDEST} to {VERSION}")))
        }
        Ok((Answer::Hello { sandbox: found, version, .. }, _)) if found == sandbox => {
            connected.client.version = version;
            Ok(connected)
        }
        Ok((Answer::Hello { sandbox: found, .. }, _)) => Err(ClientError::Foreign(found)),
        Err(ClientError::Refused(refusal)) if refusal.code == "version" => Err(ClientError::Version(refusal.message)),
        Ok(_) => Err(ClientError::Unexpected("hello")),
        Err(error) => Err(error),
    }
}

impl KeeperClient {
    async fn ask(&self, op: Op) -> Result<(Answer, Vec<OwnedFd>), ClientError> {
        self.ask_with(op, Vec::new(), DEADLINE).await
    }

    async fn ask_with(
        &self,
        op: Op,
        descriptors: Vec<OwnedFd>,
        deadline: Duration,
    ) -> Result<(Answer, Vec<OwnedFd>), ClientError> {
        let name = op.name();
        if op.since() > self.version {
            return Err(ClientError::TooOld { op: name, found: self.version, needed: op.since() });
        }
        let (reply, answer) = oneshot::channel();
        let exchange = async {
            self.requests.send(Pending { op, descriptors, reply }).await.map_err(|_| ClientError::Gone)?;
            answer.await.map_err(|_| ClientError::Gone)?.map_err(ClientError::Refused)
        };
        tokio::time::timeout(deadline, exchange).await.map_err(|_| ClientError::Timeout(name))?
    }

    /// Waits until the connection has ended.
    pub async fn gone(&self) {
        self.requests.closed().await;
    }

    /// The protocol version that both speak.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Takes a snapshot of devices and memory: the VM stops, everything is read ([`Event::Captured`]), the VM goes on if it is
    /// to, and this answers when the files are on disk. A VM that ran goes on when it fails. One at a time (`busy`).
    ///
    /// With [`Then::Stay`] the caller may call [`Self::resume`] as soon as [`Event::Captured`] came. A pause notes the snapshot
    /// first and ends the VM itself afterwards; [`Then::Exit`] leaves a moment in which only the files know of it.
    ///
    /// # Errors
    /// When the VMM is gone or silent, or a file cannot be written (`no_space`).
    pub async fn snapshot(&self, files: SnapshotFiles, then: Then) -> Result<Snapshot, ClientError> {
        let SnapshotFiles { state_out, state, diff } = files;
        let descriptors = vec![state_out.into(), state.into(), diff.into()];
        match self.ask_with(Op::Snapshot { then }, descriptors, SNAPSHOT_DEADLINE).await? {
            (Answer::Snapshot(snapshot), _) => Ok(*snapshot),
            _ => Err(ClientError::Unexpected("snapshot")),
        }
    }

    /// Waits until a machine that begins from a snapshot stands ready for [`Self::resume`].
    ///
    /// # Errors
    /// `corrupt` when a file does not hold what it must; no guest has seen it then, and the VMM is killed.
    pub async fn await_restore(&self) -> Result<(), ClientError> {
        self.ask_with(Op::AwaitRestore, Vec::new(), RESTORE_DEADLINE).await.map(drop)
    }

    /// Grows the sandbox's disk, file and device, to so many bytes; the guest then grows its file system.
    ///
    /// # Errors
    /// When the VMM is gone or silent, or the size is more than the spec allows.
    pub async fn resize_disk(&self, bytes: u64) -> Result<(), ClientError> {
        self.command(Op::ResizeDisk { bytes }).await
    }

    /// The write-sealed memory base that the VMM was started with; for the next VMM of the same golden after a restart.
    ///
    /// # Errors
    /// When its base is a file of its own, or the keeper is gone or silent.
    pub async fn memory_base(&self) -> Result<OwnedFd, ClientError> {
        match self.ask(Op::MemoryBase).await? {
            (Answer::MemoryBase, descriptors) => {
                descriptors.into_iter().next().ok_or(ClientError::Unexpected("memory_base"))
            }
            _ => Err(ClientError::Unexpected("memory_base")),
        }
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

    /// Whether the VMM gives a sign of life; a keeper that is too old to ask it counts as one.
    ///
    /// # Errors
    /// When keeper or VMM are gone or silent.
    pub async fn probe(&self) -> Result<(), ClientError> {
        match self.command(Op::Probe).await {
            Err(ClientError::TooOld { .. }) => Ok(()),
            // Busy with something that has a deadline of its own, or just ended, which is told as an event.
            Err(ClientError::Refused(refusal)) if refusal.code != "vmm_silent" => Ok(()),
            other => other,
        }
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
                let Some(Pending { op, descriptors: along, reply }) = request else { return };
                let id = next_id;
                next_id += 1;
                replies.retain(|_, waiting| !waiting.is_closed());
                replies.insert(id, reply);
                if write(&socket, &Request { id, op }, along).await.is_err() {
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

async fn write(socket: &UnixStream, request: &Request, mut along: Vec<OwnedFd>) -> std::io::Result<()> {
    let mut bytes = serde_json::to_vec(request)?;
    bytes.push(b'\n');
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        socket.writable().await?;
        let raw: Vec<i32> = along.iter().map(|fd| fd.as_raw_fd()).collect();
        let sent = socket.try_io(tokio::io::Interest::WRITABLE, || {
            wire::send(socket.as_fd(), rest, &raw).map_err(std::io::Error::from)
        });
        match sent {
            Ok(n) => {
                along.clear();
                rest = &rest[n..];
            }
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
            let count = ok.descriptors().min(descriptors.len());
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
