//! `cargo xtask bench footprint`: what Atoll holds when it does nothing.
//!
//! How it works: rounds, each with an Atoll of its own: start to listening (in an empty data directory, and again in the same), memory
//! without a sandbox and with some, paired by round; then what is a keeper's own. Memory is from `smaps_rollup`: a keeper's own is
//! what it shares with nobody, clean (read from its file, given back at will) and dirty apart. Listening means that `/health` is
//! answered over the socket, looked at every 2 ms.
//!
//! Deliberately absent: memory of guests and VMMs.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::{Options, machine, statistics};
use crate::instance::{Running, parse};
use crate::workspace::{Workspace, is_root};

const SANDBOXES: usize = 20;
/// A little rest, so that what a create still holds is given back.
const REST: Duration = Duration::from_secs(5);

/// Samples of all rounds.
#[derive(Debug, Default)]
struct Samples {
    first_start: Vec<f64>,
    next_start: Vec<f64>,
    empty: Vec<f64>,
    full: Vec<f64>,
    keeper_dirty: Vec<f64>,
    keeper_clean: Vec<f64>,
}

/// Measures so many rounds and prints.
pub(crate) fn run(workspace: &Workspace, options: &Options, rounds: usize) -> Result<()> {
    if !is_root() {
        bail!("run it as root: it reads the memory of other users' processes");
    }
    let binary = options.atoll(workspace)?;
    let sandboxes = options.sandboxes.unwrap_or(SANDBOXES);
    let begun = machine::now()?;
    let mut samples = Samples::default();
    let mut described = String::new();
    for round in 1..=rounds {
        let started = Instant::now();
        let mut atoll = Running::start(binary.clone())?;
        samples.first_start.push(ms(started));
        // Images are there from now on, whatever the cache held.
        parse(&atoll.ask(&["create", "--output", "json"])?)?;
        let started = atoll.stop_and_start()?;
        atoll.wait()?;
        samples.next_start.push(ms(started));
        samples.take(&atoll, sandboxes)?;
        eprintln!("round {round} of {rounds}");
        described = machine::describe(begun, &atoll)?;
        atoll.stop()?;
    }
    let size = fs::metadata(&binary).context("no binary")?.len();
    println!("binary ({}): {size} bytes", binary.display());
    samples.report(sandboxes)?;
    println!("{described}");
    Ok(())
}

impl Samples {
    fn take(&mut self, atoll: &Running, sandboxes: usize) -> Result<()> {
        std::thread::sleep(REST);
        self.empty.push(machine::memory(atoll.pid(), &["Rss"])?);
        let mut keepers = Vec::new();
        for _ in 0..sandboxes {
            let created = parse(&atoll.ask(&["create", "--memory", "128", "--output", "json"])?)?;
            let id = created["id"].as_str().context("`atoll create` answered without an id")?;
            let facts = parse(&atoll.ask(&["get", id, "--output", "json"])?)?;
            let pid = facts["host"]["keeper_pid"].as_u64().context("`atoll get` names no keeper")?;
            keepers.push(u32::try_from(pid)?);
        }
        std::thread::sleep(REST);
        self.full.push(machine::memory(atoll.pid(), &["Rss"])?);
        for keeper in keepers {
            self.keeper_dirty.push(machine::memory(keeper, &["Private_Dirty"])?);
            self.keeper_clean.push(machine::memory(keeper, &["Private_Clean"])?);
        }
        Ok(())
    }

    fn report(&self, sandboxes: usize) -> Result<()> {
        statistics::print("start to listening in an empty data directory, ms", &self.first_start)?;
        statistics::print("start to listening in one that is there, ms", &self.next_start)?;
        statistics::print("resident memory of Atoll with 0 sandboxes, KiB", &self.empty)?;
        statistics::print(&format!("resident memory of Atoll with {sandboxes} sandboxes, KiB"), &self.full)?;
        let grown: Vec<f64> = self.full.iter().zip(&self.empty).map(|(full, empty)| full - empty).collect();
        statistics::print("  difference, by round", &grown)?;
        statistics::print("private memory of a keeper, dirty, KiB", &self.keeper_dirty)?;
        statistics::print("private memory of a keeper, clean, KiB", &self.keeper_clean)
    }
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}
