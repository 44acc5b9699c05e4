//! What reading everything again came to.
//!
//! How it works: plain serde types.
//!
//! Deliberately absent: what to do about it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What was read, and what of it is damaged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScrubReport {
    /// Files that were read.
    pub files: u64,
    /// Their lengths together; holes count.
    pub bytes: u64,
    /// Everything that does not hold what it must; one entry a fault.
    pub damaged: Vec<Damage>,
}

/// Something that is kept and does not hold what it must.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Damage {
    /// `template`, `golden` or `sandbox`.
    #[schema(example = "template")]
    pub kind: String,
    /// Its id; of a golden, its template, shape and identity.
    pub id: String,
    /// The name of a template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "warm-python")]
    pub name: Option<String>,
    /// Which file, and what is wrong with it.
    #[schema(example = "memory.raw: it does not hold what it must")]
    pub reason: String,
}
