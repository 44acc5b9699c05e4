//! What the machine was like during a measurement.
//!
//! How it works: `/proc` before and after: load, and the share of time that the hypervisor gave to others (steal); `findmnt` for the
//! file system; `atoll doctor` for the accelerator.
//!
//! Deliberately absent: changing anything (governors, caches).

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::instance::{Running, parse};

/// Processor time at one moment, in ticks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    all: u64,
    steal: u64,
}

/// Reads it.
pub(crate) fn now() -> Result<Moment> {
    let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let fields = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let ticks: Vec<u64> = fields.filter_map(|field| field.parse().ok()).collect();
    // guest times (fields 9 and 10) are within user time already.
    Ok(Moment { all: ticks.iter().take(8).sum(), steal: ticks.get(7).copied().unwrap_or(0) })
}

/// What figures were taken under, since `begun`: printed with every benchmark.
pub(crate) fn describe(begun: Moment, atoll: &Running) -> Result<String> {
    let ended = now()?;
    let load = fs::read_to_string("/proc/loadavg").context("cannot read /proc/loadavg")?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let all = ended.all.saturating_sub(begun.all).max(1);
    let steal = ended.steal.saturating_sub(begun.steal) * 1000 / all;
    let minute = load.split_whitespace().next().unwrap_or("?");
    let (files, accelerator) = (file_system(atoll.data())?, accelerator(atoll)?);
    let (whole, tenth) = (steal / 10, steal % 10);
    Ok(format!(
        "machine: {cores} cores, load {minute}, steal {whole}.{tenth} %; data directory on {files}; accelerator {accelerator}"
    ))
}

/// The kind of the file system that a path lies on.
fn file_system(path: &Path) -> Result<String> {
    let output = Command::new("findmnt").args(["--noheadings", "--output", "FSTYPE", "--target"]).arg(path).output();
    let output = output.context("cannot start findmnt")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What carries the guests.
fn accelerator(atoll: &Running) -> Result<&'static str> {
    let checks = parse(&atoll.ask(&["doctor", "--output", "json"])?)?;
    let kvm = checks.as_array().into_iter().flatten().find(|check| check["check"] == "kvm");
    let usable = kvm.context("`atoll doctor` says nothing about KVM")?["level"] == "ok";
    Ok(if usable { "KVM" } else { "TCG (emulation; KVM cannot be used here)" })
}

/// A sum of lines of `/proc/PID/smaps_rollup`, in KiB.
pub(crate) fn memory(pid: u32, names: &[&str]) -> Result<f64> {
    Ok(f64::from(u32::try_from(smaps(pid.into(), names)?).context("a memory size out of range")?))
}

/// One line of `/proc/PID/smaps_rollup` summed over the names, in KiB.
fn smaps(pid: u64, names: &[&str]) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let value = |line: &str| line.split_whitespace().nth(1)?.parse::<u64>().ok();
    let wanted = |line: &&str| names.iter().any(|name| line.starts_with(&format!("{name}:")));
    Ok(text.lines().filter(wanted).filter_map(value).sum())
}
