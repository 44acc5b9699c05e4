//! Processes that are not waited for.
//!
//! How it works: plain serde types; a process is named by its pid in the guest or by its tag.
//!
//! Deliberately absent: processes that the guest started by itself.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The answer to an exec in the background.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BackgroundResponse {
    /// Where it runs.
    pub sandbox_id: String,
    /// The program, as it was asked for.
    pub cmd: String,
    /// Its pid in the guest.
    pub pid: u32,
    /// Finds it again.
    #[schema(example = "proc-0a1b2c3d")]
    pub tag: String,
}

/// A process that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Process {
    /// Its pid in the guest.
    pub pid: u32,
    /// Its tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The program.
    pub cmd: String,
    /// Its arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Where it was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
}

/// The processes of a sandbox that run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProcessList {
    /// In the order in which they were started.
    pub processes: Vec<Process>,
}
