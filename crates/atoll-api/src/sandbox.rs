//! Sandboxes: what they are, and how one is asked for.
//!
//! How it works: plain serde types; what a later version adds (a status, a kind of network) reads as `unknown` in an
//! older client.
//!
//! Deliberately absent: validation: bounds and defaults are the domain's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How a sandbox is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SandboxStatus {
    /// Written down; its host has not answered yet.
    Pending,
    /// It runs.
    Running,
    /// On disk, without a VM.
    Paused,
    /// Its host cannot be reached.
    Missing,
    /// Destroyed or ended.
    Stopped,
    /// It could not be made.
    Error,
    /// A status that this version does not know.
    #[serde(other)]
    Unknown,
}

impl SandboxStatus {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Missing => "missing",
            Self::Stopped => "stopped",
            Self::Error => "error",
            Self::Unknown => "unknown",
        }
    }
}

impl std::fmt::Display for SandboxStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a sandbox may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Nothing.
    None,
    /// Public addresses; no neighbour, no host, no private range.
    #[default]
    Internet,
    /// A kind that this version does not know.
    #[serde(other)]
    Unknown,
}

/// A sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Sandbox {
    /// Its id.
    #[schema(example = "sb0123456789abcdefghijklmno")]
    pub id: String,
    /// How it is.
    pub status: SandboxStatus,
    /// Why it is so, where there is something to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it started from.
    #[schema(example = "base")]
    pub template: String,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// Writable disk in MiB.
    pub disk_mb: u32,
    /// Idle timeout in seconds; 0 for none.
    pub timeout_sec: u32,
    /// When its time is over, whatever happens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub end_at: Option<String>,
    /// What happens when its time is over: `pause` or `destroy`.
    #[serde(default)]
    #[schema(example = "pause")]
    pub on_expiry: String,
    /// Whether the next use of a paused one resumes it.
    #[serde(default)]
    pub auto_resume: bool,
    /// Longest run in seconds, counted from its start or last resume; 0 for no limit.
    #[serde(default)]
    pub max_lifetime_sec: u32,
    /// What is kept of it, while it is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Paused>,
    /// What it may reach.
    #[serde(default)]
    pub network: Network,
    /// The guest's own address, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_ip: Option<String>,
    /// Its address seen from its host, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<String>,
    /// When it was asked for.
    #[schema(format = DateTime, example = "2026-01-31T12:00:00.123Z")]
    pub created_at: String,
    /// When it ran first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub started_at: Option<String>,
    /// When it was used last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub last_active_at: Option<String>,
    /// When this record changed last.
    #[schema(format = DateTime)]
    pub last_updated: String,
    /// Labels of its owner.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// What belongs to it on its host: for platform admins and over the data directory's socket alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostFacts>,
}

/// What is kept of a paused sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Paused {
    /// When it was paused.
    #[schema(format = DateTime)]
    pub at: String,
    /// `memory`: processes go on where they were; `disk`: a resume boots.
    #[schema(example = "memory")]
    pub mode: String,
    /// Whether its agent had stopped user code: only then may it be copied.
    pub quiesced: bool,
    /// Bytes that the pause wrote.
    pub bytes: u64,
    /// How long the pause took, in milliseconds; in the answer to the pause alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<f64>,
}

/// Asks for a pause or a resume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModeRequest {
    /// `memory` (the default) or `disk`: of a pause, what is kept; of a resume, what it starts from.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "memory")]
    pub mode: Option<String>,
}

/// Changes the limits of a sandbox; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpdateSandboxRequest {
    /// Idle timeout in seconds; 0 for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 31_536_000)]
    pub timeout_sec: Option<i64>,
    /// A moment that only such a call moves; `null` takes it away.
    #[serde(deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub end_at: Option<Option<String>>,
    /// `pause` or `destroy`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_expiry: Option<String>,
    /// Whether the next use of a paused one resumes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_resume: Option<bool>,
    /// Longest run in seconds; 0 for no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 31_536_000)]
    pub max_lifetime_sec: Option<i64>,
}

/// Tells `null` from absent.
#[allow(clippy::option_option, reason = "absent, null and a value are three things")]
fn given<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(value).map(Some)
}

/// What belongs to a sandbox on its host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HostFacts {
    /// Its directory.
    pub directory: String,
    /// Process id of its keeper.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeper_pid: Option<u32>,
    /// Process id of its VMM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmm_pid: Option<u32>,
    /// The unprivileged uid of both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Its network namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The host's end of its veth pair.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// How long the phases of its start took, in order.
    #[serde(default)]
    pub phases: Vec<Phase>,
}

/// One phase of a start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Phase {
    /// `image`, `disk`, `network`, `boot`, `init`.
    #[schema(example = "boot")]
    pub name: String,
    /// How long it took, in milliseconds.
    pub ms: f64,
}

/// Asks for a sandbox. Absent, `null` and 0 mean the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CreateSandboxRequest {
    /// Name of a base template or of one of the team's snapshot templates; `base` is the default, `minimal` another name of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "base")]
    pub template: Option<String>,
    /// Virtual CPUs: 1 by default, at most 32, or twice the host's cores where guests are emulated. From a snapshot template they are its own,
    /// as is the memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 32)]
    pub vcpus: Option<i64>,
    /// Memory in MiB: 512 by default, at least 128, at most the host's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0)]
    pub memory_mb: Option<i64>,
    /// Writable disk in MiB: 5120 by default, 64 to 1048576.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 1_048_576)]
    pub disk_mb: Option<i64>,
    /// Idle timeout in seconds: none by default, at most a year.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 31_536_000)]
    pub timeout_sec: Option<i64>,
    /// A moment at which its time is over, whatever happens; at most a year ahead.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime, example = "2026-01-31T12:00:00Z")]
    pub end_at: Option<String>,
    /// What happens when its time is over: `pause` (the default) or `destroy`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "pause")]
    pub on_expiry: Option<String>,
    /// Whether the next use of a paused one resumes it; not by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_resume: Option<bool>,
    /// Longest run in seconds, counted from its start or last resume: none by default, at most a year.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 31_536_000)]
    pub max_lifetime_sec: Option<i64>,
    /// `auto` (the default) restores a booted sandbox where there is one; `cold` boots in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "auto")]
    pub boot: Option<String>,
    /// `internet` (the default) or `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "internet")]
    pub network: Option<String>,
    /// Variables of every process in it: at most 256, at most 64 KiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub envs: Option<BTreeMap<String, String>>,
    /// Labels: at most 32, keys and values of at most 256 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<BTreeMap<String, String>>,
    /// A kernel of one's own: absolute path on the host of a vmlinux or bzImage. Over the data directory's socket alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// A root file system of one's own: absolute path on the host of an ext4 image. Over the data directory's socket alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<String>,
    /// Serves the guest's agent to every program of the host, on a fixed loopback port, as long as the sandbox and this Atoll
    /// run. One sandbox at a time; over the data directory's socket alone.
    #[serde(skip_serializing_if = "is_false")]
    pub debug_port: bool,
}

// serde hands a reference to it.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(value: &bool) -> bool {
    !value
}
