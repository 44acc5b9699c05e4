//! What a sandbox used and what happened to it.
//!
//! How it works: plain serde types; a kind of event that a client does not know is text like the others.
//!
//! Deliberately absent: who did it; that is the audit log's.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a sandbox used over a range.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SandboxMetrics {
    /// The sandbox.
    pub sandbox_id: String,
    /// `10m`: samples every 500 ms; `2h`: means of 30 s; `24h`: means of 5 minutes.
    #[schema(example = "10m")]
    pub range: String,
    /// The oldest first.
    pub points: Vec<MetricPoint>,
}

/// What was used at one moment, or on average up to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MetricPoint {
    /// Seconds since 1970.
    pub timestamp_unix: i64,
    /// Milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Per cent of the sandbox's virtual CPUs, 0 to 100.
    pub cpu_pct: f64,
    /// Resident bytes of the VMM.
    pub mem_bytes: u64,
    /// Allocated bytes of the sandbox's own disk.
    pub disk_bytes: u64,
    /// Used memory as the guest sees it, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_mem_bytes: Option<u64>,
    /// Used bytes of the root file system as the guest sees it, where they are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_disk_bytes: Option<u64>,
}

/// Something that happened to a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SandboxEvent {
    /// When.
    #[schema(format = DateTime, example = "2026-01-31T12:00:00.123Z")]
    pub at: String,
    /// `created`, `started`, `failed`, `lifetime_changed`, `expired`, `paused`, `pause_failed`, `resumed`, `resume_failed`, `snapshotted`,
    /// `disk_full`, `goes_on`, `ended`, `destroyed`.
    #[schema(example = "started")]
    pub kind: String,
    /// In which life of it: 1 from its creation on.
    pub incarnation: u64,
    /// Why, where there is something to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
