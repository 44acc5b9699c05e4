//! `cargo xtask bench footprint`: what Atoll holds when it does nothing.
//!
//! How it works: one Atoll, measured without a sandbox and with twenty; memory from `smaps_rollup` (a keeper's own is what it
//! shares with nobody), start to the first answer over the socket ten times.
//!
//! Deliberately absent: memory of guests and VMMs.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::{machine, statistics};
use crate::build::{self, Profile};
use crate::instance::{Running, parse};
use crate::workspace::{Workspace, is_root};

const STARTS: usize = 10;
const SANDBOXES: usize = 20;
/// A little rest, so that what a create still holds is given back.
const REST: Duration = Duration::from_secs(5);

/// Measures and prints.
pub(crate) fn run(workspace: &Workspace, binary: Option<&str>) -> Result<()> {
    if !is_root() {
        bail!("run it as root: it reads the memory of other users' processes");
    }
    let binary = match binary {
        Some(path) => std::path::absolute(path).context("the path of the binary")?,
        None => build::run(workspace, Profile::Dist)?,
    };
    let begun = machine::now()?;
    println!("binary: {} ({} bytes)", binary.display(), fs::metadata(&binary).context("no binary")?.len());
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        let started = Instant::now();
        let atoll = Running::start(binary.clone())?;
        starts.push(started.elapsed().as_secs_f64() * 1000.0);
        atoll.stop()?;
    }
    let start = statistics::median(&starts).context("no starts")?;
    println!("start to the first answer of `atoll ls`, polled every 50 ms: {start} ms");

    let atoll = Running::start(binary)?;
    std::thread::sleep(REST);
    println!("resident memory of Atoll with 0 sandboxes: {} KiB", machine::smaps(atoll.pid().into(), &["Rss"])?);
    let mut keepers = Vec::new();
    for _ in 0..SANDBOXES {
        let created = parse(&atoll.ask(&["create", "--memory", "128", "--output", "json"])?)?;
        let id = created["id"].as_str().context("`atoll create` answered without an id")?;
        let facts = parse(&atoll.ask(&["get", id, "--output", "json"])?)?;
        keepers.push(facts["host"]["keeper_pid"].as_u64().context("`atoll get` names no keeper")?);
    }
    std::thread::sleep(REST);
    println!(
        "resident memory of Atoll with {SANDBOXES} sandboxes: {} KiB",
        machine::smaps(atoll.pid().into(), &["Rss"])?
    );
    let private = |pid: &u64| machine::smaps(*pid, &["Private_Clean", "Private_Dirty"]);
    let private: Vec<f64> =
        keepers.iter().map(private).map(|kib| Ok(f64::from(u32::try_from(kib?)?))).collect::<Result<_>>()?;
    println!("private memory of a keeper: {} KiB", statistics::median(&private).context("no keepers")?);
    println!("{}", machine::describe(begun)?);
    atoll.stop()
}
