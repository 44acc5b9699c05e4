//! A running Atoll with a data directory of its own, for demo and benchmarks.
//!
//! How it works: everything asked of it goes through the public command line. Whatever happens, it is stopped in order and
//! its data directory removed.
//!
//! Deliberately absent: images and kernels; they stay in the default cache.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
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
const POLL: Duration = Duration::from_millis(2);
/// How long one look at `/health` may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Reads what a command printed with `--output json`.
pub(crate) fn parse(json: &str) -> Result<Value> {
    serde_json::from_str(json).context("atoll's output is not JSON")
}

/// A running Atoll with a data directory of its own.
#[derive(Debug)]
pub(crate) struct Running {
    binary: PathBuf,
    data: PathBuf,
    goldens: &'static str,
    up: Child,
    stopped: bool,
}

impl Running {
    /// Starts it and waits until it answers.
    pub(crate) fn start(binary: PathBuf) -> Result<Self> {
        Self::start_as(privileged(&binary), binary, "none")
    }

    /// The same, with goldens of these shapes; they are booted in the background.
    pub(crate) fn start_with_goldens(binary: PathBuf, shapes: &'static str) -> Result<Self> {
        Self::start_as(privileged(&binary), binary, shapes)
    }

    /// The same, told that names are asked at one resolver: its `/etc/resolv.conf` is another file than the machine's.
    pub(crate) fn start_resolving(binary: PathBuf, resolv_conf: &Path) -> Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "--", "sh", "-c"]);
        command.arg("mount --bind \"$0\" /etc/resolv.conf && exec \"$@\"").arg(resolv_conf).arg(&binary);
        Self::start_as(command, binary, "none")
    }

    fn start_as(mut command: Command, binary: PathBuf, goldens: &'static str) -> Result<Self> {
        let data = std::env::temp_dir().join(format!("atoll-xtask-{}", std::process::id()));
        let up = spawn(up_on(&mut command, &data, goldens))?;
        let mut running = Self { binary, data, goldens, up, stopped: false };
        running.wait()?;
        Ok(running)
    }

    /// Waits until it answers.
    pub(crate) fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + LISTEN_LIMIT;
        while !self.healthy() {
            if let Some(status) = self.up.try_wait()? {
                self.stopped = true;
                bail!("`atoll up` ended: {status}");
            }
            if Instant::now() > deadline {
                bail!("`atoll up` does not answer after {}", seconds(LISTEN_LIMIT));
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }

    /// Kills it (`kill -9`) and starts it again on its data directory; whether it answers is for the caller to find out.
    pub(crate) fn kill_and_start(&mut self) -> Result<()> {
        self.up.kill().context("cannot kill atoll")?;
        self.up.wait().context("cannot wait for atoll")?;
        self.up = spawn(up_on(&mut privileged(&self.binary), &self.data, self.goldens))?;
        Ok(())
    }

    /// Ends it in order and starts it again on its data directory; answers when it was started, not when it answered.
    pub(crate) fn stop_and_start(&mut self) -> Result<Instant> {
        self.terminate()?;
        let started = Instant::now();
        self.up = spawn(up_on(&mut privileged(&self.binary), &self.data, self.goldens))?;
        Ok(started)
    }

    /// Its data directory.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// Process id of `atoll up` (of `sudo`, where that started it).
    pub(crate) fn pid(&self) -> u32 {
        self.up.id()
    }

    /// Whether `/health` is answered over the data directory's socket; `sudo`'s Atoll lets only its own user in there.
    fn healthy(&self) -> bool {
        if is_root() {
            return health(&self.data.join("run/atoll.sock")).is_ok_and(|healthy| healthy);
        }
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

    fn terminate(&mut self) -> Result<()> {
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
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        if !self.stopped {
            self.stopped = true;
            self.terminate()?;
        }
        let removed = privileged(Path::new("/bin/rm")).arg("-rf").arg("--").arg(&self.data).status();
        if !removed.context("cannot start rm")?.success() {
            bail!("cannot remove {}", self.data.display());
        }
        Ok(())
    }
}

/// `up`, by a command that starts the binary.
fn up_on<'a>(command: &'a mut Command, data: &Path, goldens: &str) -> &'a mut Command {
    // Demo and benchmarks of a boot are about a boot; one beside it would be in the way.
    command.arg("up").arg("--data").arg(data).args(["--golden-shapes", goldens]);
    command.args(["--listen", "127.0.0.1:0", "--on-exit", "destroy", "--log", "warn"])
}

fn spawn(command: &mut Command) -> Result<Child> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("cannot start atoll")
}

/// Asks for `/health` over a socket.
fn health(socket: &Path) -> std::io::Result<bool> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.set_write_timeout(Some(ANSWER_LIMIT))?;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: atoll\r\nConnection: close\r\n\r\n")?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    Ok(&head == b"HTTP/1.1 200")
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
