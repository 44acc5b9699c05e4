//! `cargo xtask bench boot|exec|dns|streams`: what Atoll adds to the bare sequence.
//!
//! How it works: one Atoll of profile `dist` with a data directory of its own, whose keepers ask for names at a resolver that the
//! benchmark brings along; `atoll-bench` takes samples of both in turns and prints them as JSON; here they become medians, the median of
//! the differences and of the ratios, each with its interval.
//!
//! Deliberately absent: thresholds.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{Options, machine, statistics};
use crate::build::{self, Profile};
use crate::instance::Running;
use crate::stage;
use crate::workspace::{Workspace, is_root};

/// Where the local resolver of the benchmarks listens, for Atoll's keepers.
const RESOLVER: &str = "127.53.0.53";

/// Measures and prints.
pub(crate) fn run(workspace: &Workspace, options: &Options, what: &str, pairs: usize) -> Result<()> {
    if !is_root() {
        bail!("run it as root: it makes VMs of its own to compare with");
    }
    let binary = options.atoll(workspace)?;
    let guest = build::embedded_guest(workspace, options.profile);
    let program = build(workspace, options.profile)?;
    let resolv_conf = std::env::temp_dir().join(format!("atoll-xtask-{}.resolv.conf", std::process::id()));
    fs::write(&resolv_conf, format!("nameserver {RESOLVER}\n")).context("cannot write a resolv.conf")?;
    let atoll = Running::start_resolving(binary, &resolv_conf);
    // Mounted by now, or of no use.
    fs::remove_file(&resolv_conf).context("cannot remove a resolv.conf")?;
    let atoll = atoll?;
    let begun = machine::now()?;
    let mut bench = Command::new(program);
    bench.arg(what).arg("--data").arg(atoll.data()).args(["--pid", &atoll.pid().to_string()]);
    bench.args(["--pairs", &pairs.to_string(), "--resolver", RESOLVER]);
    bench.arg("--guest").arg(guest).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = bench.output().context("cannot start atoll-bench")?;
    if !output.status.success() {
        bail!("atoll-bench: {}", output.status);
    }
    let series: Value = serde_json::from_slice(&output.stdout).context("atoll-bench printed no JSON")?;
    for one in series.as_array().context("atoll-bench printed no list")? {
        report(one)?;
    }
    println!("{}", machine::describe(begun, &atoll)?);
    atoll.stop()
}

/// Builds the program that takes the samples.
pub(crate) fn build(workspace: &Workspace, profile: Profile) -> Result<PathBuf> {
    let _used = workspace.using()?;
    stage::run(&mut workspace.cargo(&["build", "--profile", profile.name(), "--package", "atoll-bench"]))?;
    Ok(workspace.target.join(profile.name()).join("atoll-bench"))
}

pub(super) fn report(series: &Value) -> Result<()> {
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
