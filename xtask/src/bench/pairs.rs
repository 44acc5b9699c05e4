//! `cargo xtask bench boot|exec`: what Atoll adds to the bare sequence.
//!
//! How it works: one Atoll of profile `dist` with a data directory of its own; `atoll-bench` takes samples of both in turns and prints
//! them as JSON; here they become medians, the median of the differences and of the ratios, each with its interval.
//!
//! Deliberately absent: thresholds.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{machine, statistics};
use crate::build::{self, Profile};
use crate::instance::Running;
use crate::workspace::{Workspace, is_root};

/// Measures and prints.
pub(crate) fn run(workspace: &Workspace, what: &str, pairs: &str) -> Result<()> {
    if !is_root() {
        bail!("run it as root: it makes VMs of its own to compare with");
    }
    let binary = build::run(workspace, Profile::Dist)?;
    let guest = build::embedded_guest(workspace, Profile::Dist);
    let built = workspace.cargo(&["build", "--profile", "dist", "--package", "atoll-bench"]).status();
    if !built.context("cannot start cargo")?.success() {
        bail!("atoll-bench does not build");
    }
    let atoll = Running::start(binary)?;
    let begun = machine::now()?;
    let mut bench = Command::new(workspace.target.join("dist/atoll-bench"));
    bench.arg(what).arg("--data").arg(atoll.data()).args(["--pid", &atoll.pid().to_string(), "--pairs", pairs]);
    bench.arg("--guest").arg(guest).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = bench.output().context("cannot start atoll-bench")?;
    if !output.status.success() {
        bail!("atoll-bench: {}", output.status);
    }
    let series: Value = serde_json::from_slice(&output.stdout).context("atoll-bench printed no JSON")?;
    for one in series.as_array().context("atoll-bench printed no list")? {
        report(one)?;
    }
    println!("{}", machine::describe(begun)?);
    println!("file system of the data directory: {}", machine::file_system(atoll.data())?);
    atoll.stop()
}

fn report(series: &Value) -> Result<()> {
    let numbers = |name: &str| -> Vec<f64> {
        series[name].as_array().map(|list| list.iter().filter_map(Value::as_f64).collect()).unwrap_or_default()
    };
    let (atoll, bare) = (numbers("atoll"), numbers("bare"));
    println!("{}", series["name"].as_str().context("a series without a name")?);
    println!("  Atoll       {}", statistics::median(&atoll).context("a series without samples")?);
    if bare.len() == atoll.len() {
        let with = |f: fn(f64, f64) -> f64| -> Vec<f64> { atoll.iter().zip(&bare).map(|(a, b)| f(*a, *b)).collect() };
        println!("  bare        {}", statistics::median(&bare).context("no bare samples")?);
        println!("  difference  {}", statistics::median(&with(|a, b| a - b)).context("no pairs")?);
        println!("  ratio       {}", statistics::median(&with(|a, b| a / b)).context("no pairs")?.precise());
    }
    Ok(())
}
