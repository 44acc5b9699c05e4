//! Memory of a process, from `/proc`.
//!
//! How it works: the lines of `/proc/PID/status`.
//!
//! Deliberately absent: what is shared with whom (the reporter reads `smaps_rollup` for that).

use anyhow::{Context as _, Result};

/// One line of it (`VmRSS`, `VmHWM`), in KiB.
pub(crate) fn kib(pid: u32, name: &str) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find(|line| line.starts_with(name)).with_context(|| format!("no {name}"))?;
    let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u32>().ok());
    kib.map(f64::from).with_context(|| format!("{name} is malformed"))
}
