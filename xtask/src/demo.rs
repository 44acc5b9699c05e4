//! `cargo xtask demo`: a real microVM runs real code.
//!
//! How it works: see `make demo`.
//!
//! Deliberately absent: everything but the public command line of the binary.

use anyhow::Result;

use crate::build::{self, Profile};
use crate::workspace::Workspace;

/// Builds and shows.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    build::run(workspace, Profile::Release).map(|_| ())
}
