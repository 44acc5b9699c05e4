//! Templates that teams make of their sandboxes.
//!
//! How it works: plain serde types; a create names a template by its name.
//!
//! Deliberately absent: where its objects lie; that is its host's.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A template.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Snapshot {
    /// Its name in the team; `template` of a create.
    #[schema(example = "warm-python")]
    pub name: String,
    /// `snapshot`: a disk with memory; `base`: a disk.
    #[serde(rename = "type")]
    #[schema(example = "snapshot")]
    pub kind: String,
    /// Virtual CPUs of every sandbox that starts from it.
    pub vcpus: u32,
    /// Memory in MiB of every sandbox that starts from it.
    pub memory_mb: u32,
    /// Smallest writable disk in MiB of a sandbox that starts from it.
    pub disk_mb: u32,
    /// Allocated bytes.
    pub size_bytes: u64,
    /// When it was made.
    #[schema(format = DateTime, example = "2026-01-31T12:00:00.123Z")]
    pub created_at: String,
    /// How long the sandbox stood still for it, in milliseconds; in the answer to the call that made it alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stood_still_ms: Option<f64>,
}

/// Asks for a template of a running or paused sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CreateSnapshotRequest {
    /// The sandbox; it returns to the state that it had.
    pub sandbox_id: String,
    /// Letters, digits, `.`, `_`, `-`, at most 64; absent means that a name is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "warm-python")]
    pub name: Option<String>,
}
