//! The words that the control plane and a host agent exchange.
//!
//! How it works: plain requests, answers and events. Each lifecycle call carries an operation id and the sandbox's
//! incarnation, so that a call repeated after a lost answer has its effect once. What a host does by itself it tells
//! through a numbered stream of [`HostEvent`]s.
//!
//! Deliberately absent: the transport (see `HostDriver` in atoll-control) and anything that only one side knows.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::record::Paused;
use crate::snapshot::MemoryReason;
use crate::ttl::{Cause, Lifetime, Limits};
use crate::validate::Invalid;
use crate::{Incarnation, Network, OperationId, SandboxId, Shape};

/// What identifies one lifecycle call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// The same id replayed is the same call.
    pub operation: OperationId,
    /// Which life of the sandbox is meant.
    pub incarnation: Incarnation,
}

/// The access token of one sandbox's guest agent. Its `Debug` shows nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GuestToken(String);

impl GuestToken {
    /// Makes a token of 64 hex digits from 256 random bits.
    pub fn from_random(random: [u8; 32]) -> Self {
        use std::fmt::Write as _;
        let mut text = String::with_capacity(64);
        for byte in random {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
        }
        Self(text)
    }

    /// The secret itself, for the header that carries it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for GuestToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GuestToken(..)")
    }
}

/// What must not be written to a host's disk unsealed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSecrets {
    /// The guest agent's access token.
    pub token: GuestToken,
    /// Environment variables of every process in the sandbox.
    pub envs: BTreeMap<String, String>,
}

impl fmt::Debug for SandboxSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SandboxSecrets({} variables)", self.envs.len())
    }
}

/// What a sandbox is to be, without its secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// The sandbox.
    pub id: SandboxId,
    /// Name of the template, already resolved (`base`, never an alias).
    pub template: String,
    /// Its size.
    pub shape: Shape,
    /// What it may reach.
    pub network: Network,
    /// The user whom the agent takes when a request names none.
    pub default_user: String,
    /// How long it may live without being asked for; the host's actor keeps to it.
    #[serde(default)]
    pub lifetime: Lifetime,
    /// The snapshot template that it starts from, by id; none for a base template.
    #[serde(default)]
    pub snapshot: Option<String>,
    /// Whether it must boot, though a golden could be restored.
    #[serde(default)]
    pub cold: bool,
    /// What stands in for the template's files.
    #[serde(default, skip_serializing_if = "OwnFiles::is_empty")]
    pub own: OwnFiles,
}

/// Files of the machine's owner that stand in for Atoll's: absolute paths on the host, copied when the sandbox is made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnFiles {
    /// A kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// An ext4 image for the template's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<String>,
}

impl OwnFiles {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.kernel.is_none() && self.rootfs.is_none()
    }
}

/// The template's name of a sandbox with a root file system of its owner.
pub const OWN_TEMPLATE: &str = "own";

impl HostError {
    /// What the sandbox's owner is told: what is the inside of a host stays in its log.
    pub fn told(&self) -> String {
        match self {
            Self::Failed(_) => "the host failed; its log has the reason".into(),
            Self::Unavailable(_) => "the host could not be reached".into(),
            other => other.to_string(),
        }
    }

    /// Whether this is no answer: the host may have carried out what it was asked, or not, and has to be asked again.
    pub fn is_no_answer(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Stopping | Self::Timeout { .. })
    }
}

/// Asks a host for a new sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateSandbox {
    /// What it is to be.
    pub spec: SandboxSpec,
    /// Its token and environment.
    pub secrets: SandboxSecrets,
    /// Of a copy: the token of the sandbox that its template was made of. The copy's agent knows that one until it is told its own.
    #[serde(default)]
    pub inherited: Option<GuestToken>,
}

/// How much of a paused sandbox is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PauseMode {
    /// Memory, devices and disk: processes go on where they were.
    #[default]
    Memory,
    /// The disk alone: a resume boots.
    Disk,
}

impl PauseMode {
    /// The wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
        }
    }

    /// Reads a wire name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Memory, Self::Disk].into_iter().find(|mode| mode.as_str() == text)
    }
}

/// Asks a host to let a paused sandbox go on. Its [`Call`] bears the next incarnation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumeSandbox {
    /// `Disk`: boot from the disk and give up what is kept of the memory.
    pub mode: PauseMode,
    /// Its token and environment.
    pub secrets: SandboxSecrets,
}

/// Asks a host for a snapshot template of a running or paused sandbox, which returns to the state that it had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MakeTemplate {
    /// The template's id, chosen by the control plane. Asking again for one that is there answers the same.
    pub template: String,
}

/// What a template came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateFacts {
    /// Its id.
    pub template: String,
    /// The size that a sandbox made from it has at least.
    pub shape: Shape,
    /// Allocated bytes.
    pub bytes: u64,
    /// How long the sandbox stood still for it, in microseconds.
    pub stood_still_micros: u64,
}

/// Whether a host isolates by hardware or by emulation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// KVM.
    Hardware,
    /// QEMU's TCG: slower, and the jail is the boundary.
    Emulated,
}

/// How far a sandbox is on its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostSandboxState {
    /// Being made.
    Starting,
    /// Its guest agent answers.
    Running,
    /// Being written to the host's disk; it may still go on.
    Pausing,
    /// On the host's disk, without a VM.
    Paused,
    /// Being brought back.
    Resuming,
    /// Being ended.
    Stopping,
    /// Over, but a part of it could not be given back: to be destroyed again.
    Stuck,
}

/// What a host says about one sandbox: an operator sees what on the machine belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxFacts {
    /// The sandbox.
    pub id: SandboxId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// How far it is.
    pub state: HostSandboxState,
    /// Its directory on the host.
    pub directory: String,
    /// Process id of its keeper, once started.
    pub keeper_pid: Option<u32>,
    /// Process id of its VMM, once started.
    pub vmm_pid: Option<u32>,
    /// Its network namespace.
    pub netns: Option<String>,
    /// The host's end of its veth pair.
    pub interface: Option<String>,
    /// The address of the sandbox seen from the host.
    pub host_ip: Option<String>,
    /// The guest's own address.
    pub guest_ip: Option<String>,
    /// The unprivileged uid of keeper and VMM.
    pub uid: Option<u32>,
    /// What is kept of it, while it is paused.
    #[serde(default)]
    pub paused: Option<Paused>,
    /// The limits that the host keeps to.
    #[serde(default)]
    pub limits: Limits,
    /// Milliseconds that the phases of its start took, in order.
    pub phases: Vec<Phase>,
}

/// One phase of a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// `image`, `disk`, `network`, `boot`, `init` …
    pub name: String,
    /// How long it took, in microseconds.
    pub micros: u64,
}

/// What a host can take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostCapacity {
    /// Logical CPUs of the machine.
    pub cpus: u32,
    /// Memory of the machine in MiB.
    pub memory_mb: u64,
    /// Largest `vcpus` that one sandbox may ask for here.
    pub max_vcpus: u32,
    /// Whether KVM carries the guests.
    pub isolation: Isolation,
    /// Templates that can be started here, by name.
    pub templates: Vec<String>,
    /// What is left of the machine now.
    pub room: Room,
}

/// What is left of a machine, in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// All memory.
    pub total_mb: u64,
    /// Memory that can be had now.
    pub available_mb: u64,
    /// Memory promised to sandboxes that are there.
    pub promised_mb: u64,
    /// Free space of the file system that holds sandboxes.
    pub disk_free_mb: u64,
    /// Disk reserved for the pauses that limits of sandboxes may bring.
    #[serde(default)]
    pub pause_mb: u64,
}

impl Room {
    /// Free space that is reserved for nothing.
    pub fn disk_left_mb(&self) -> u64 {
        self.disk_free_mb.saturating_sub(self.pause_mb)
    }
}

/// How a destroy ended. Both mean: nothing of it is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Destroyed {
    /// It was there and is gone.
    Done,
    /// The host has no such sandbox.
    NotFound,
}

/// Number of an event in a host's stream; grows by one, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventSeq(pub u64);

/// Something that a host did or saw by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostEvent {
    /// Its number.
    pub seq: EventSeq,
    /// The sandbox it is about.
    pub sandbox: SandboxId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// What happened.
    pub kind: HostEventKind,
}

/// What a host can tell by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum HostEventKind {
    /// The VM ended: the guest powered off, the VMM died or was killed, or the host ended it.
    Ended {
        /// For people.
        reason: String,
    },
    /// The VM stands still until the host's disk has space again.
    DiskFull,
    /// It goes on after that.
    Resumed,
    /// The host paused it: its time was over, or Atoll stopped and kept it so.
    Paused {
        /// What is kept.
        paused: Paused,
        /// Which of its limits it was; none when Atoll stopped.
        cause: Option<Cause>,
    },
    /// Its time was over and it could not be paused; it runs on and is tried again.
    PauseFailed {
        /// For people.
        reason: String,
        /// Which of its limits it was.
        cause: Option<Cause>,
    },
}

/// Why a host did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(tag = "error", content = "detail", rename_all = "snake_case")]
pub enum HostError {
    /// No such sandbox on this host.
    #[error("the host has no such sandbox")]
    NotFound,
    /// The request cannot be carried out on this host as it stands.
    #[error(transparent)]
    Invalid(Invalid),
    /// The template is not known here.
    #[error("template `{name}` is not known; known: {known}")]
    UnknownTemplate {
        /// What was asked for.
        name: String,
        /// What there is, comma separated.
        known: String,
    },
    /// The sandbox is in a state in which this cannot be done, or the call is of an older life.
    #[error("the sandbox is {state}")]
    WrongState {
        /// The state, for people.
        state: String,
    },
    /// What is kept of its memory cannot be used here any more; its disk can, by a resume in mode `disk`.
    #[error("the memory of the sandbox cannot be used any more: {0}")]
    MemoryUnusable(MemoryReason),
    /// The guest's agent did not answer in time; the sandbox runs on.
    #[error("the guest's agent did not answer in time")]
    AgentBusy,
    /// What is kept was not quiesced: it may go on itself and never be copied.
    #[error("the sandbox was paused without its agent's help: it may be resumed and not be copied")]
    Unquiesced,
    /// What is kept does not hold what it must.
    #[error("what is kept of the sandbox is damaged: {0}")]
    Damaged(String),
    /// No memory, disk or slot left.
    #[error("{what} is short: {needed} needed, {available} available")]
    NoCapacity {
        /// `memory_mb`, `disk_mb`, `address pool`.
        what: String,
        /// What the request needs.
        needed: u64,
        /// What is left.
        available: u64,
    },
    /// Something that must be installed is not.
    #[error("{what} is missing: {remedy}")]
    MissingTool {
        /// The program or file.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// The host did not answer.
    #[error("the host cannot be reached: {0}")]
    Unavailable(String),
    /// Its agent is going down; the next one goes on.
    #[error("Atoll was stopping")]
    Stopping,
    /// A phase went over its deadline.
    #[error("{what} took longer than {limit_ms} ms")]
    Timeout {
        /// The phase.
        what: String,
        /// The limit in milliseconds.
        limit_ms: u64,
    },
    /// Anything else; the text is for the operator's log, not for the API's answer.
    #[error("the host failed: {0}")]
    Failed(String),
}
