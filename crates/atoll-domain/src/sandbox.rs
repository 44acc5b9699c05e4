//! What a sandbox is: its status, its shape, its network.
//!
//! How it works: small enums with their wire names and the questions that others ask of them.
//!
//! Deliberately absent: the host's own states of a sandbox (see [`crate::actor`]).

use std::fmt;

use serde::{Deserialize, Serialize};

/// The status that the control plane keeps and the API shows.
///
/// ```text
///   create ──> pending ──host says yes──> running ──destroy──> stopped
///                 └──host says no──> error    ^ └─pause─> paused ─┘ (resume)
///   running ──host unreachable──> missing ──host is back──> running | stopped
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SandboxStatus {
    /// Written down, the host has not answered yet.
    Pending,
    /// A VM runs.
    Running,
    /// On disk, no VM.
    Paused,
    /// Its host cannot be reached; it comes back when the host does.
    Missing,
    /// Destroyed or ended; kept for the record.
    Stopped,
    /// The host could not create it.
    Error,
}

impl SandboxStatus {
    /// The wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Missing => "missing",
            Self::Stopped => "stopped",
            Self::Error => "error",
        }
    }

    /// Reads a wire name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Running, Self::Paused, Self::Missing, Self::Stopped, Self::Error]
            .into_iter()
            .find(|status| status.as_str() == text)
    }

    /// Whether lists show it: what is over (`stopped`, `error`) is only answered by id.
    pub fn is_listed(self) -> bool {
        !self.is_over()
    }

    /// Whether nothing of it exists on a host any more.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Stopped | Self::Error)
    }
}

impl fmt::Display for SandboxStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a guest may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Nothing but its own control channel.
    None,
    /// Public addresses; no neighbour, host service, private or link-local range.
    #[default]
    Internet,
}

impl Network {
    /// The wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Internet => "internet",
        }
    }

    /// Reads a wire name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::None, Self::Internet].into_iter().find(|network| network.as_str() == text)
    }
}

/// The size of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shape {
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Guest memory in MiB.
    pub memory_mb: u32,
    /// Apparent size of the writable disk in MiB.
    pub disk_mb: u32,
}
