//! `cargo xtask demo`: a real microVM runs real code.
//!
//! How it works: an Atoll with a data directory of its own is started, and everything else is what a user would type:
//! `create`, `exec`, `exec` again in the same sandbox, `get`, `rm`. The default cache keeps kernel and base image, so that
//! a second demo only boots. Whatever happens, the Atoll is stopped in order and its data directory removed.
//!
//! Deliberately absent: everything but the public command line of the binary.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::build::{self, Profile};
use crate::instance::{Running, parse};
use crate::stage::seconds;
use crate::workspace::Workspace;

/// What runs in the VM.
const PROGRAM: &str = "\
import os, platform, sys
primes = [n for n in range(2, 50) if all(n % d for d in range(2, n))]
print('Hello from Python', platform.python_version(), 'as pid', os.getpid())
print('primes below 50:', *primes)
open('note.txt', 'w').write('written by the first command\\n')
";

/// Builds (unless a binary is given), boots, runs, shows.
pub(crate) fn run(workspace: &Workspace, binary: Option<&str>) -> Result<()> {
    let began = Instant::now();
    let binary = match binary {
        Some(path) => std::path::absolute(path).context("the path of the binary")?,
        None => build::run(workspace, Profile::Release)?,
    };
    let built = began.elapsed();
    let atoll = Running::start(binary)?;
    let listening = Instant::now();
    println!("\nAtoll runs; creating a sandbox (the first one builds the base image, which takes a few minutes)");
    let created = parse(&atoll.ask(&["create", "--output", "json"])?)?;
    let id = created["id"].as_str().context("`atoll create` answered without an id")?.to_owned();
    let create = listening.elapsed();

    println!("\n$ atoll exec {id} -- python3 -c PROGRAM");
    let started = Instant::now();
    let code = atoll.show(&["exec", &id, "--", "python3", "-c", PROGRAM])?;
    let exec = started.elapsed();
    println!("exit code: {code}");
    println!("\n$ atoll exec {id} -- cat note.txt");
    let read = atoll.show(&["exec", &id, "--", "cat", "note.txt"])?;
    let guest = atoll.ask(&["exec", &id, "--", "uname", "-r"])?;
    let host = fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the host's kernel release")?;
    println!("\nkernel of the guest: {}\nkernel of the host:  {}", guest.trim(), host.trim());

    let facts = parse(&atoll.ask(&["get", &id, "--output", "json"])?)?;
    atoll.ask(&["rm", "--yes", &id])?;
    atoll.stop()?;
    // The image is made before the sandbox's own phases begin.
    let image = create.saturating_sub(phases(&facts));
    println!(
        "\ntime: build {}, image {}, boot {}, exec {}, all {}",
        seconds(built),
        seconds(image),
        seconds(create.saturating_sub(image)),
        seconds(exec),
        seconds(began.elapsed())
    );
    if code != 0 || read != 0 {
        bail!("a program in the sandbox failed");
    }
    println!("nothing is left but the cache; the binary is target/release/atoll");
    Ok(())
}

/// How long the phases of the sandbox's start took together.
fn phases(facts: &Value) -> Duration {
    let phases = facts["host"]["phases"].as_array().into_iter().flatten();
    Duration::from_secs_f64(phases.filter_map(|phase| phase["ms"].as_f64()).sum::<f64>().max(0.0) / 1000.0)
}
