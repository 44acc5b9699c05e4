//! What can go wrong in a keeper or while preparing one.
//!
//! How it works: one enum that says what was being done and why it failed; what is the operator's to mend has a variant
//! of its own.
//!
//! Deliberately absent: secrets: no variant carries contents.

use std::io;
use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// Long work that nobody wants any more.
    #[error("called off")]
    CalledOff,
    /// A system call.
    #[error("cannot {step}")]
    Step {
        /// What was being done.
        step: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file.
    #[error("cannot {action} {}", path.display())]
    File {
        /// `open`, `write` …
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The spec cannot be read.
    #[error("spec.json is malformed: {0}")]
    Spec(String),
    /// The spec was written by a newer Atoll.
    #[error("spec.json has version {found}, this keeper knows {known}")]
    SpecVersion {
        /// What it says.
        found: u32,
        /// What is known.
        known: u32,
    },
    /// A memory diff is none, or was cut, or is of a newer Atoll.
    #[error("the memory diff cannot be used: {0}")]
    Diff(String),
    /// A file holds something else than it must.
    #[error("the {what} does not have the digest that it must have")]
    Digest {
        /// `memory diff` or `device state`.
        what: &'static str,
    },
    /// The guest's memory is not where it must be in the VMM.
    #[error("the VMM does not map the guest's memory: {0}")]
    Unmapped(String),
    /// QEMU is not installed.
    #[error("QEMU is not installed ({missing} not found): apt-get install qemu-system-x86")]
    QemuMissing {
        /// What was looked for.
        missing: String,
    },
    /// The VMM ended before it answered.
    #[error("the VMM ended while starting ({status}): {output}")]
    VmmStart {
        /// How.
        status: String,
        /// What it printed.
        output: String,
    },
}

impl KeeperError {
    /// The word for it in the protocol.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Diff(_) | Self::Digest { .. } => "corrupt",
            Self::Step { source, .. } | Self::File { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "no_space"
            }
            _ => "failed",
        }
    }

    /// The error with its causes.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(cause) = next {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            next = cause.source();
        }
        text
    }

    /// Wraps the error of a step.
    pub fn step(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let step = step.into();
        move |source| Self::Step { step, source }
    }

    /// The same for nix.
    pub(crate) fn errno(step: impl Into<String>) -> impl FnOnce(nix::errno::Errno) -> Self {
        let step = step.into();
        move |errno| Self::Step { step, source: errno.into() }
    }

    /// Wraps the error of a file.
    pub fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}
