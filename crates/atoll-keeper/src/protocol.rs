//! The words that host agent and keeper exchange.
//!
//! How it works: one JSON document a line on a Unix stream socket; descriptors travel beside the answer that names them. Every
//! request has an id that its answer repeats; what the keeper says by itself has an `event` instead. `hello` settles the
//! version: both speak the smaller one, and a peer that knows none of the other's is refused by name. What changes anything
//! is taken from the claimant alone: the connection that gave the greatest number. Requests that a version added are refused
//! on a connection that settled on an older one, and so are its events kept from it.
//!
//! Deliberately absent: the guest agent's words; they go through the sockets that `streams` hands out.

use serde::{Deserialize, Serialize};

use crate::memory::Digest;

/// The newest version spoken here. 2: snapshots, restores, the size of the disk. 3: a sign of life.
pub const VERSION: u32 = 3;
/// The oldest version still spoken.
pub const OLDEST: u32 = 1;
/// The socket's name in the sandbox's directory.
pub const SOCKET: &str = "keeper.sock";
/// The longest line, in bytes: secrets are the largest.
pub const MAX_LINE: usize = 512 * 1024;
/// Most sockets in one answer.
pub const MAX_STREAMS: usize = 16;

/// Descriptors that come with a `snapshot`.
pub const SNAPSHOT_FILES: usize = 3;

/// A request.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// Repeated in the answer.
    pub id: u64,
    /// What is asked.
    #[serde(flatten)]
    pub op: Op,
}

/// What can be asked.
#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    /// Settles the version.
    Hello {
        /// The newest that the asker speaks.
        version: u32,
    },
    /// Takes the keeper over; only a greater number wins.
    Claim {
        /// Kept by the host agent under its data directory's lock.
        number: u64,
    },
    /// Where things stand; for anybody.
    State,
    /// Leaves secrets in the keeper's memory.
    SecretsPut {
        /// Opaque.
        secrets: String,
    },
    /// Gives them back to the claimant.
    SecretsGet,
    /// Stops the virtual CPUs.
    Pause,
    /// Lets them go on.
    Resume,
    /// Asks the VMM for a sign of life; refused with `vmm_silent` when it gives none in time.
    Probe,
    /// Kills the VMM.
    Kill,
    /// Asks for sockets made in the sandbox's namespace.
    Streams {
        /// How many, at most [`MAX_STREAMS`].
        count: usize,
    },
    /// The console from an offset.
    Console {
        /// Counted from the first byte that the guest ever printed.
        from: u64,
    },
    /// Ends the keeper, and the VMM with it.
    Exit,
    /// Stops the virtual CPUs and saves devices and memory into files that come along: the state for writing only, the
    /// state once more for reading, the diff for both. Answered when both are on disk; one at a time. (Version 2.)
    Snapshot {
        /// What becomes of the VM.
        then: Then,
    },
    /// Answers once a machine that begins from a snapshot is ready for `resume`, or says why it never will be. (Version 2.)
    AwaitRestore,
    /// Grows the sandbox's disk, file and device, to so many bytes; the guest grows its file system. (Version 2.)
    ResizeDisk {
        /// The new size; at most what the spec allows.
        bytes: u64,
    },
    /// Asks for the write-sealed memory base that the VMM was started with. (Version 2.)
    MemoryBase,
}

/// What becomes of a VM whose snapshot was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// It stands still until `resume`: for whoever must copy its disk, or note the snapshot before the VM ends.
    Stay,
    /// It goes on as soon as its memory is read, if it ran before.
    Resume,
    /// It is killed once everything is on disk.
    Exit,
}

impl std::fmt::Debug for Op {
    /// Names the request; a secret is never shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Op {
    /// Its name on the wire.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello { .. } => "hello",
            Self::Claim { .. } => "claim",
            Self::State => "state",
            Self::SecretsPut { .. } => "secrets_put",
            Self::SecretsGet => "secrets_get",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Probe => "probe",
            Self::Kill => "kill",
            Self::Streams { .. } => "streams",
            Self::Console { .. } => "console",
            Self::Exit => "exit",
            Self::Snapshot { .. } => "snapshot",
            Self::AwaitRestore => "await_restore",
            Self::ResizeDisk { .. } => "resize_disk",
            Self::MemoryBase => "memory_base",
        }
    }

    /// The first version that knows it.
    pub fn since(&self) -> u32 {
        match self {
            Self::Snapshot { .. } | Self::AwaitRestore | Self::ResizeDisk { .. } | Self::MemoryBase => 2,
            Self::Probe => 3,
            _ => 1,
        }
    }

    /// How many descriptors come with it.
    pub fn descriptors(&self) -> usize {
        if matches!(self, Self::Snapshot { .. }) { SNAPSHOT_FILES } else { 0 }
    }

    /// Whether only the claimant may ask it.
    pub fn needs_claim(&self) -> bool {
        !matches!(self, Self::Hello { .. } | Self::Claim { .. } | Self::State)
    }
}

/// A line of the keeper.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// What was asked, done.
    Done {
        /// The request's.
        id: u64,
        /// What came of it.
        ok: Answer,
    },
    /// What was asked, refused or failed.
    Failed {
        /// The request's; 0 when it had none.
        id: u64,
        /// Why.
        error: Refusal,
    },
    /// What the keeper says by itself.
    Event {
        /// What happened.
        event: Event,
    },
}

/// What came of a request.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// `hello`.
    Hello {
        /// The version that both speak.
        version: u32,
        /// The sandbox, so that nobody talks to the wrong one.
        sandbox: String,
        /// Which life of it.
        incarnation: u64,
    },
    /// `state`.
    State(Box<State>),
    /// `secrets_get`.
    Secrets(Option<String>),
    /// `console`.
    Console {
        /// The offset of the first byte in `data`; greater than asked when older ones are gone.
        from: u64,
        /// Bytes as base-16, because a guest prints anything.
        data: String,
    },
    /// `streams`: so many descriptors came along.
    Streams(usize),
    /// `snapshot`.
    Snapshot(Box<Snapshot>),
    /// `memory_base`: one descriptor came along.
    MemoryBase,
    /// Everything else.
    Empty,
}

impl Answer {
    /// How many descriptors come with it.
    pub fn descriptors(&self) -> usize {
        match self {
            Self::Streams(count) => *count,
            Self::MemoryBase => 1,
            _ => 0,
        }
    }
}

/// What a snapshot is made of, as its files say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Of the state file.
    pub state_digest: Digest,
    /// Its length in bytes.
    pub state_bytes: u64,
    /// The one in the diff's header.
    pub diff_digest: Digest,
    /// The diff's length in bytes.
    pub diff_bytes: u64,
    /// Pages that differ from the base and hold something.
    pub data_pages: u64,
    /// Pages that differ from the base by being zero.
    pub zero_pages: u64,
    /// The steps with their microseconds; `stop` to `dump` is how long the VM stood still.
    pub phases: Vec<(String, u64)>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hello { .. } => f.write_str("Hello"),
            Self::State(state) => state.fmt(f),
            Self::Secrets(_) => f.write_str("Secrets(..)"),
            Self::Console { .. } => f.write_str("Console"),
            Self::Streams(n) => write!(f, "Streams({n})"),
            Self::Snapshot(snapshot) => snapshot.fmt(f),
            Self::MemoryBase => f.write_str("MemoryBase"),
            Self::Empty => f.write_str("Empty"),
        }
    }
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// `unknown`, `version`, `not_claimant`, `stale_claim`, `too_large`, `vmm_gone`, `vmm_silent`, `failed`, `busy` (a snapshot or a
    /// restore is under way), `corrupt` (a file does not hold what it must), `no_space`.
    pub code: String,
    /// For people.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into() }
    }
}

/// Where things stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The VMM's process id, in the host's numbering.
    pub vmm_pid: u32,
    /// When it started, in clock ticks since boot: with the pid and the boot id it names the process for good.
    pub vmm_start: u64,
    /// The keeper's process id.
    pub keeper_pid: u32,
    /// How the VMM ended, if it did: an exit code, or minus the signal.
    pub exited: Option<i32>,
    /// QEMU's own word for what it does, as last heard.
    pub run_state: String,
    /// Why the virtual CPUs stand still, if they do: as in [`Event::Stopped`].
    #[serde(default)]
    pub stopped: Option<String>,
    /// The greatest claim so far.
    pub claim: u64,
    /// Bytes that the console has printed so far.
    pub console_offset: u64,
    /// The last lines that the VMM itself wrote, when it ended badly.
    pub vmm_log: String,
    /// The phases of the start with their microseconds.
    pub phases: Vec<(String, u64)>,
    /// `snapshot` or `restore`, while one is under way. (Version 2.)
    #[serde(default)]
    pub busy: Option<String>,
    /// The last snapshot that was taken; for whoever adopts a keeper whose claimant died meanwhile. (Version 2.)
    #[serde(default)]
    pub snapshot: Option<Box<Snapshot>>,
}

/// What a keeper says by itself, to its claimant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// A greater claim came.
    Superseded,
    /// The VMM ended.
    VmmExited {
        /// An exit code, or minus the signal.
        status: i32,
        /// The last lines that it wrote.
        log: String,
    },
    /// The virtual CPUs stand still.
    Stopped {
        /// `disk_full`, `asked`, `other`.
        reason: String,
    },
    /// They go on.
    Resumed,
    /// Everything of the VM is read for the snapshot that is being taken: its disk may be copied now, or the VM resumed; the
    /// answer follows when the files are on disk. (Version 2.)
    Captured,
}

impl Event {
    /// The first version that knows it.
    pub fn since(&self) -> u32 {
        if matches!(self, Self::Captured) { 2 } else { 1 }
    }
}
