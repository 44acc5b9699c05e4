//! `atoll completion`
//!
//! How it works: clap writes the script from the same definitions as the help.
//!
//! Deliberately absent: installing it.

use anyhow::Result;
use clap::CommandFactory as _;

use crate::args::{Cli, CompletionArgs};
use crate::output;

/// Prints a completion script for a shell.
pub(crate) fn completion(args: &CompletionArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "atoll", &mut script);
    output::write_stdout(&script)
}
