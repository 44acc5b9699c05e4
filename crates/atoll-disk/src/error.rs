//! What can go wrong with disks and images.
//!
//! How it works: one enum that says what was being done, to what, and why it failed.
//!
//! Deliberately absent: statuses of HTTP; the host agent maps these to its own errors.

use std::io;
use std::path::PathBuf;

/// An error of this crate; each variant names the thing and, where there is one, the way out.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A file or directory could not be used.
    #[error("cannot {action} {}", path.display())]
    File {
        /// `read`, `write`, `create` …
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file system that holds the path is full.
    #[error("no space left for {}: free some, or use another data or cache directory", path.display())]
    NoSpace {
        /// What was being written.
        path: PathBuf,
    },
    /// A program is not installed.
    #[error("`{tool}` is not installed: apt-get install {package}")]
    MissingTool {
        /// The program.
        tool: String,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A program failed.
    #[error("`{tool}` failed ({status}): {output}")]
    Tool {
        /// The program.
        tool: String,
        /// Its exit status.
        status: String,
        /// The last lines that it printed.
        output: String,
    },
    /// A program went over its time.
    #[error("`{tool}` did not end within {limit_sec} s and was killed: {output}")]
    ToolTimeout {
        /// The program.
        tool: String,
        /// The limit in seconds.
        limit_sec: u64,
        /// The last lines that it printed.
        output: String,
    },
    /// No such template.
    #[error("template `{name}` is not known; known: {known}")]
    UnknownTemplate {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// Something that was read is not what it should be.
    #[error("{what} is malformed: {why}")]
    Malformed {
        /// What.
        what: String,
        /// Why.
        why: String,
    },
    /// A file that the machine's owner gave cannot be used.
    #[error("{} cannot be used as {field}: {why}", path.display())]
    Unusable {
        /// `kernel` or `rootfs`.
        field: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Nothing was found where something must be.
    #[error("{0}")]
    Missing(String),
    /// The work was called off.
    #[error("cancelled")]
    Cancelled,
}

impl DiskError {
    /// Wraps an I/O error with what was being done; a full disk becomes [`DiskError::NoSpace`].
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| match source.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => Self::NoSpace { path },
            _ => Self::File { action, path, source },
        }
    }
}
