//! `cargo xtask bench life`: starts from a golden, resumes, pauses, snapshots, and what they leave.
//!
//! How it works: one Atoll with goldens of the default shape and of smaller ones; `atoll-bench` waits for them and takes the samples, in turns
//! with a bare restore and a bare pause of the same files; here they become medians.
//!
//! Deliberately absent: thresholds.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{Options, machine, pairs};
use crate::build;
use crate::instance::Running;
use crate::workspace::{Workspace, is_root};

/// Of the default create, of the guest that is paused idle, and of the guests that are many.
const GOLDENS: &str = "1x512,1x256,1x128";

/// Measures and prints.
pub(crate) fn run(workspace: &Workspace, options: &Options, times: usize) -> Result<()> {
    if !is_root() {
        bail!("run it as root: it makes VMs of its own to compare with");
    }
    let binary = options.atoll(workspace)?;
    let guest = build::embedded_guest(workspace, options.profile);
    let program = pairs::build(workspace, options.profile)?;
    let atoll = Running::start_with_goldens(binary, GOLDENS)?;
    let begun = machine::now()?;
    let part = options.part.as_deref().unwrap_or("all");
    let mut bench = Command::new(program);
    bench.args(["life", "--part", part, "--data"]).arg(atoll.data()).args(["--pid", &atoll.pid().to_string()]);
    bench.args(["--pairs", &times.to_string()]).arg("--guest").arg(guest).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = bench.output().context("cannot start atoll-bench")?;
    if !output.status.success() {
        bail!("atoll-bench: {}", output.status);
    }
    let series: Value = serde_json::from_slice(&output.stdout).context("atoll-bench printed no JSON")?;
    for one in series.as_array().context("atoll-bench printed no list")? {
        pairs::report(one)?;
    }
    println!("{}", machine::describe(begun, &atoll)?);
    atoll.stop()
}
