//! Running a command to its end.
//!
//! How it works: plain serde types; an absent field is the default, and output that is not UTF-8 is base64, which the
//! answer says.
//!
//! Deliberately absent: streams (`frames.rs`) and processes that are not waited for (`process.rs`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A command to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ExecRequest {
    /// The program, looked up in the guest's PATH. No shell: name `/bin/sh` with `-c` for one.
    #[schema(example = "python3")]
    pub cmd: String,
    /// Its arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(example = json!(["-c", "print(1 + 1)"]))]
    pub args: Vec<String>,
    /// Seconds that it may take; absent or 0 means 30. Then its process group is killed and the answer is 504.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 86400)]
    pub timeout_sec: Option<i64>,
    /// Working directory; absent means the user's home.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Variables besides the sandbox's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub envs: Option<BTreeMap<String, String>>,
    /// Operating-system user; absent means root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Starts it and answers 202 at once, with its pid and tag; `timeout_sec` is then without end unless given.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub background: bool,
    /// A name to find a background process by; absent means that one is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
}

/// How the output of an [`ExecResponse`] is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
pub enum Encoding {
    /// As text.
    #[default]
    #[serde(rename = "utf-8")]
    Utf8,
    /// As base64, both streams, because one of them is not UTF-8.
    #[serde(rename = "base64")]
    Base64,
}

/// How a command went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExecResponse {
    /// Where it ran.
    pub sandbox_id: String,
    /// The program, as it was asked for.
    pub cmd: String,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
    /// Its exit code; 128 + the signal that ended it; 127 when there is no such program.
    pub exit_code: i32,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// How `stdout` and `stderr` are written.
    #[serde(default)]
    pub encoding: Encoding,
    /// Whether it wrote more to standard output than is answered (16 MiB).
    #[serde(default)]
    pub stdout_truncated: bool,
    /// The same of standard error.
    #[serde(default)]
    pub stderr_truncated: bool,
}
