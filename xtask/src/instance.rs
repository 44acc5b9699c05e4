//! A running Atoll with a data directory of its own, for demo and benchmarks.
//!
//! How it works: everything asked of it goes through the public command line. Whatever happens, it is stopped in order and
//! its data directory removed.
//!
//! Deliberately absent: images and kernels; they stay in the default cache.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::stage::seconds;
use crate::workspace::is_root;

/// How long Atoll may take until it answers.
const LISTEN_LIMIT: Duration = Duration::from_secs(60);
/// How long an orderly stop may take.
const STOP_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// Reads what a command printed with `--output json`.
pub(crate) fn parse(json: &str) -> Result<Value> {
    serde_json::from_str(json).context("atoll's output is not JSON")
}

/// A running Atoll with a data directory of its own.
#[derive(Debug)]
pub(crate) struct Running {
    binary: PathBuf,
    data: PathBuf,
    up: Child,
    stopped: bool,
}

impl Running {
    /// Starts it and waits until it answers.
    pub(crate) fn start(binary: PathBuf) -> Result<Self> {
        let data = std::env::temp_dir().join(format!("atoll-xtask-{}", std::process::id()));
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

    /// Its data directory.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Process id of `atoll up` (of `sudo`, where that started it).
    pub(crate) fn pid(&self) -> u32 {
        self.up.id()
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
    pub(crate) fn ask(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments).stderr(Stdio::inherit()).output().context("cannot start atoll")?;
        if !output.status.success() {
            bail!("`atoll {}`: {}", arguments.first().unwrap_or(&""), output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a command whose output is for the user; answers its exit code.
    pub(crate) fn show(&self, arguments: &[&str]) -> Result<i32> {
        let status = self.command(arguments).status().context("cannot start atoll")?;
        status.code().context("`atoll exec` was killed")
    }

    /// Stops it in order and removes its data directory.
    pub(crate) fn stop(mut self) -> Result<()> {
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
