//! Logs to standard error.
//!
//! How it works: one subscriber for the process; while a progress bar is on the screen a line is written above it.
//!
//! Deliberately absent: files and rotation (whoever runs Atoll has a journal for that).

use std::io::{self, Write};

use anyhow::{Context as _, Result};
use indicatif::MultiProgress;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// What says at `info` what is of no use to anybody.
const QUIETER: &str = "sea_orm_migration=warn";

/// Starts logging; `filter` is a level or a list such as `info,atoll_host=debug`.
pub(crate) fn start(filter: &str, json: bool, bars: &MultiProgress) -> Result<()> {
    // What comes later wins.
    let filter = EnvFilter::try_new(format!("{QUIETER},{filter}"))
        .with_context(|| format!("--log `{filter}` is not a level or a filter"))?;
    let colour = crate::output::colour_on_stderr();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Above(bars.clone())).with_ansi(colour);
    let done = if json { builder.json().try_init() } else { builder.try_init() };
    done.map_err(|error| anyhow::anyhow!("logging cannot be started: {error}"))
}

/// Writes to standard error, above progress bars.
#[derive(Debug, Clone)]
struct Above(MultiProgress);

impl Write for Above {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().lock().write_all(line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for Above {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
