//! What the agent tells about itself and its machine, and what it is told at its start.
//!
//! How it works: serde types of the plain routes; what an older agent does not say is `None`.
//!
//! Deliberately absent: the agent's secrets: answers hold none.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The answer of `/health`.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
pub struct Health {
    /// The level of the envd wire that the agent serves.
    pub version: String,
    /// The agent's own release. `None`: one from before it said so.
    #[serde(default)]
    pub agent: Option<String>,
    /// Which of the host's own calls the agent knows, counted up. 0: none but `/init`.
    #[serde(default)]
    pub protocol: u32,
}

/// The body of `/init`. Absent fields change nothing.
#[derive(Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InitRequest {
    /// The token that every later call must carry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_token: Option<String>,
    /// Environment of every process to come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env_vars: Option<BTreeMap<String, String>>,
    /// The time now, in nanoseconds since 1970 UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp_ns: Option<u64>,
    /// The user that runs what names no user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_user: Option<String>,
    /// Where what names no directory is run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_workdir: Option<String>,
    /// The guest's host name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// 32 lower-case hex digits. `None` makes the guest draw them when it gets entropy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine_id: Option<String>,
    /// Random bytes for the guest's kernel, base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entropy: Option<String>,
    /// Which life of the machine this is, such as the id of the restore. When it differs from the
    /// one before, connections from the past are closed and the guest's fork file changes. At
    /// most 128 bytes of printable ASCII.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<String>,
    /// How much of each process's last output the agent keeps, in bytes. It gives less when many
    /// processes share a small machine. `None` is 1 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_bytes: Option<u64>,
}

/// What [`crate::GuestClient::prepare_snapshot`] shall do.
#[derive(Debug, Clone, Copy, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PrepareRequest {
    /// Writes everything back to the disk first: for a snapshot of the disk alone.
    pub sync: bool,
    /// Lets user code stand still.
    pub freeze: bool,
    /// How long that may take, in milliseconds; then user code goes on and this is an error.
    pub timeout_ms: u64,
}

/// What was done.
#[derive(Debug, Clone, Copy, Deserialize, PartialEq, Eq)]
pub struct Prepared {
    /// User code stands still.
    pub frozen: bool,
}

/// The size of the guest's file system.
#[derive(Debug, Clone, Copy, Deserialize, PartialEq, Eq)]
pub struct DiskSize {
    /// Before, in bytes.
    pub before: u64,
    /// After, in bytes.
    pub after: u64,
}

impl std::fmt::Debug for InitRequest {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("InitRequest")
            .field("hostname", &self.hostname)
            .field("default_user", &self.default_user)
            .field("default_workdir", &self.default_workdir)
            .finish_non_exhaustive()
    }
}

/// The answer of `/metrics`: what the guest says it uses.
#[derive(Debug, Clone, Deserialize, PartialEq)]
pub struct Metrics {
    /// Seconds since 1970 UTC, by the guest's clock.
    pub ts: i64,
    /// Processors.
    pub cpu_count: u32,
    /// Of all processors together, in percent, since the last call.
    pub cpu_used_pct: f64,
    /// Bytes.
    pub mem_total: u64,
    /// Bytes, without what the kernel can give back.
    pub mem_used: u64,
    /// Bytes of page cache.
    #[serde(default)]
    pub mem_cache: u64,
    /// Bytes on the root file system.
    pub disk_used: u64,
    /// Bytes of the root file system.
    pub disk_total: u64,
}
