//! `cargo xtask demo`: a real microVM runs real code.
//!
//! How it works: an Atoll with a data directory of its own is started, and everything else is what a user would type:
//! `create`, `exec`, `exec` again in the same sandbox, `get`, `rm`. The default cache keeps kernel and base image, so that
//! a second demo only boots. Whatever happens, the Atoll is stopped in order and its data directory removed.
//!
//! Deliberately absent: everything but the public command line of the binary.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::build::{self, Profile};
use crate::stage::seconds;
use crate::workspace::{Workspace, is_root};

/// How long Atoll may take until it answers.
const LISTEN_LIMIT: Duration = Duration::from_secs(60);
/// How long an orderly stop may take.
const STOP_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

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
    let image = phase(&facts, "image");
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

fn parse(json: &str) -> Result<Value> {
    serde_json::from_str(json).context("atoll's output is not JSON")
}

/// How long one phase of the sandbox's start took.
fn phase(facts: &Value, name: &str) -> Duration {
    let phases = facts["host"]["phases"].as_array().into_iter().flatten();
    let found = phases.filter(|phase| phase["name"] == name).filter_map(|phase| phase["ms"].as_f64());
    Duration::from_secs_f64(found.sum::<f64>().max(0.0) / 1000.0)
}

/// A running Atoll with a data directory of its own.
#[derive(Debug)]
struct Running {
    binary: PathBuf,
    data: PathBuf,
    up: Child,
    stopped: bool,
}

impl Running {
    /// Starts it and waits until it answers.
    fn start(binary: PathBuf) -> Result<Self> {
        let data = std::env::temp_dir().join(format!("atoll-demo-{}", std::process::id()));
        let mut command = privileged(&binary);
        command.arg("up").arg("--data").arg(&data);
        command.args(["--listen", "127.0.0.1:0", "--on-exit", "destroy", "--log", "warn"]);
        let up = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("cannot start atoll")?;
        let mut running = Self { binary, data, up, stopped: false };
        let deadline = Instant::now() + LISTEN_LIMIT;
        while !running.answers() {
            if let Some(status) = running.up.try_wait()? {
                running.stopped = true;
                bail!("`atoll up` ended: {status}");
            }
            if Instant::now() > deadline {
                bail!("`atoll up` does not answer after {}", seconds(LISTEN_LIMIT));
            }
            std::thread::sleep(POLL);
        }
        Ok(running)
    }

    fn answers(&self) -> bool {
        let mut command = self.command(&["ls", "--quiet"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = privileged(&self.binary);
        // Before the command's own words: what follows `--` belongs to the guest.
        command.arg("--data").arg(&self.data).args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs a command and answers what it printed.
    fn ask(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments).stderr(Stdio::inherit()).output().context("cannot start atoll")?;
        if !output.status.success() {
            bail!("`atoll {}`: {}", arguments.first().unwrap_or(&""), output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a command whose output is for the user; answers its exit code.
    fn show(&self, arguments: &[&str]) -> Result<i32> {
        let status = self.command(arguments).status().context("cannot start atoll")?;
        status.code().context("`atoll exec` was killed")
    }

    /// Stops it in order and removes its data directory.
    fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        if !self.stopped {
            self.stopped = true;
            let pid = self.up.id().to_string();
            // `sudo` passes a TERM on to what it runs.
            let _ = privileged(Path::new("/bin/sh")).args(["-c", &format!("kill -TERM {pid}")]).status();
            let deadline = Instant::now() + STOP_LIMIT;
            while self.up.try_wait()?.is_none() {
                if Instant::now() > deadline {
                    bail!("`atoll up` (pid {pid}) does not stop; its data is in {}", self.data.display());
                }
                std::thread::sleep(POLL);
            }
        }
        let removed = privileged(Path::new("/bin/rm")).arg("-rf").arg("--").arg(&self.data).status();
        if !removed.context("cannot start rm")?.success() {
            bail!("cannot remove {}", self.data.display());
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.stopped
            && let Err(error) = self.end()
        {
            eprintln!("{error:#}");
        }
    }
}

/// A program run as root, by sudo where need be: namespaces, TAP devices and jails ask for it.
fn privileged(program: &Path) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut sudo = Command::new("sudo");
    sudo.arg("--preserve-env=ATOLL_CACHE").arg("--").arg(program);
    sudo
}
