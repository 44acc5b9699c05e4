//! A data directory, the Atoll that runs on it, and the sandbox that lives beside every case.
//!
//! How it works: Atoll is started as its users start it, asked over the data directory's socket, and ended by SIGKILL. It keeps a golden,
//! so that a create is a restore. The resident sandbox, which booted, runs a process that counts; after every case the same process
//! must still be counting.
//!
//! Deliberately absent: judging ([`super::checker`]).

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use atoll_api::{CreateSandboxRequest, ExecRequest, ExecResponse};
use atoll_client::{Client, ClientError, Endpoint};
use tempfile::TempDir;

use super::{checker, objects};

/// How long anything may take on a machine under load.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);
/// Memory of every sandbox.
pub(crate) const MEMORY_MB: u32 = 128;
/// The golden that they are restored from.
const GOLDEN: &str = "1x128";

/// A running Atoll.
#[derive(Debug)]
pub(crate) struct Atoll {
    child: Child,
    /// Once its socket is there.
    client: Option<Client>,
}

/// Everything that the cases share.
#[derive(Debug)]
pub(crate) struct World {
    dir: TempDir,
    data: PathBuf,
    goldens: &'static str,
    pub(crate) resident: Option<String>,
    pub(crate) atoll: Option<Atoll>,
}

pub(crate) fn binary() -> PathBuf {
    let named = ["ATOLL_TEST_BIN", "ATOLL_BIN"].into_iter().find_map(std::env::var_os).map(PathBuf::from);
    let path = named.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/release/atoll"));
    assert!(path.is_file(), "{} is not there: cargo xtask build", path.display());
    assert!(nix::unistd::geteuid().is_root(), "this test makes namespaces and jails: run it as root");
    path
}

/// Asks again and again until there is an answer.
pub(crate) async fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T, String> {
    let deadline = Instant::now() + limit;
    loop {
        match look().await {
            Ok(found) => return Ok(found),
            Err(why) if Instant::now() > deadline => return Err(format!("{what}: {why}")),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

impl World {
    /// One with a golden and a resident.
    pub(crate) async fn new() -> Self {
        let mut world = Self::empty();
        world.goldens = GOLDEN;
        world.furnish().await.expect("a golden and a resident");
        world.kill();
        world
    }

    /// One that was never used, and keeps no golden.
    pub(crate) fn empty() -> Self {
        Self::below("data")
    }

    /// The same, its data directory named by a path below one of its own.
    pub(crate) fn below(path: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("atoll-kill-").tempdir().expect("a directory");
        let data = dir.path().join(path);
        Self { dir, data, goldens: "none", resident: None, atoll: None }
    }

    async fn furnish(&mut self) -> Result<(), String> {
        self.start(&[])?;
        let (nothing, data) = (self.file("never"), self.data());
        if !self.is_up(&nothing).await? {
            return Err("Atoll died".into());
        }
        let golden = async || if objects::has_golden(&data)? { Ok(()) } else { Err("there is none".to_owned()) };
        until("a golden", LIMIT, golden).await?;
        self.ensure_resident().await?;
        let client = self.client();
        until("it does not settle", LIMIT, async || checker::compare(&data, &client).await).await
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.data.clone()
    }

    /// A file for the test's own use.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts Atoll with these variables; the answer is whether it answers or has died.
    pub(crate) fn start(&mut self, variables: &[(&str, &str)]) -> Result<(), String> {
        let log = File::create(self.file("log")).map_err(|e| e.to_string())?;
        let mut command = Command::new(binary());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name != "ATOLL_CACHE") {
            if name.to_string_lossy().starts_with("ATOLL_") {
                command.env_remove(name);
            }
        }
        command.args(["up", "--golden-shapes", self.goldens, "--listen", "127.0.0.1:0", "--data"]).arg(self.data());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).envs(variables.iter().copied());
        let child = command.spawn().map_err(|e| e.to_string())?;
        self.atoll = Some(Atoll { child, client: None });
        Ok(())
    }

    /// Waits until it answers; `Ok(false)` when it died first, or stands still at the armed place.
    pub(crate) async fn is_up(&mut self, held: &Path) -> Result<bool, String> {
        let deadline = Instant::now() + LIMIT;
        let data = self.data();
        loop {
            let Some(atoll) = &mut self.atoll else { return Ok(false) };
            if atoll.child.try_wait().map_err(|e| e.to_string())?.is_some() || held.exists() {
                return Ok(false);
            }
            if atoll.client.is_none() {
                atoll.client = Client::new(&Endpoint::Data(data.clone())).ok();
            }
            if let Some(client) = &atoll.client
                && client.health().await.is_ok()
            {
                return Ok(true);
            }
            if Instant::now() > deadline {
                return Err("Atoll did not come up".into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether it has died.
    pub(crate) fn is_dead(&mut self) -> bool {
        self.atoll.as_mut().is_none_or(|atoll| matches!(atoll.child.try_wait(), Ok(Some(_))))
    }

    pub(crate) fn client(&self) -> Client {
        self.atoll.as_ref().and_then(|atoll| atoll.client.clone()).expect("an Atoll that answered")
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut atoll) = self.atoll.take() {
            // It may be dead already.
            let _ = atoll.child.kill();
            let _ = atoll.child.wait();
        }
    }

    pub(crate) fn last_log(&self) -> String {
        let text = fs::read_to_string(self.file("log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().rev().take(30).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Makes the resident if there is none, and starts what it does.
    pub(crate) async fn ensure_resident(&mut self) -> Result<(), String> {
        if self.resident.is_none() {
            let nothing = self.file("never");
            if !self.is_up(&nothing).await? {
                return Err("Atoll died".into());
            }
            let made = self
                .client()
                .create(&CreateSandboxRequest { boot: Some("cold".into()), ..request() })
                .await
                .map_err(|e| e.to_string())?;
            let count = "n=0; while :; do n=$((n+1)); echo $n > /tmp/n.new; mv /tmp/n.new /tmp/n; sleep 1; done";
            shell(&self.client(), &made.id, &format!("({count}) >/dev/null 2>&1 & echo $! > /tmp/pid")).await?;
            self.resident = Some(made.id);
        }
        Ok(())
    }

    /// Whether the resident's process lives.
    pub(crate) async fn resident_lives(&self) -> Result<(), String> {
        let Some(id) = &self.resident else { return Ok(()) };
        let said = shell(&self.client(), id, "kill -0 $(cat /tmp/pid) && cat /tmp/n").await?;
        if said.exit_code == 0 { Ok(()) } else { Err(format!("the resident's process is gone: {}", said.stderr)) }
    }

    /// Gives this one up, whatever state it is in, and makes another.
    pub(crate) async fn replace(self) -> Self {
        drop(self);
        Self::new().await
    }

    /// Ends all sandboxes and this Atoll, in order, as far as that can be done.
    pub(crate) fn end(&mut self) {
        self.kill();
        self.goldens = "none";
        if !self.data.join("instance.json").exists() || self.start(&[("ATOLL_ON_EXIT", "destroy")]).is_err() {
            return;
        }
        let Some(mut atoll) = self.atoll.take() else { return };
        let deadline = Instant::now() + LIMIT;
        while Client::new(&Endpoint::Data(self.data.clone())).is_err()
            && matches!(atoll.child.try_wait(), Ok(None))
            && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(20));
        }
        self.atoll = Some(atoll);
        self.stop();
    }

    /// Asks it to end, as a service manager does, and waits until it has; whether it ended well.
    pub(crate) fn stop(&mut self) -> bool {
        let Some(atoll) = &mut self.atoll else { return false };
        let deadline = Instant::now() + LIMIT;
        let pid = nix::unistd::Pid::from_raw(i32::try_from(atoll.child.id()).expect("a pid"));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let mut ended = atoll.child.try_wait();
        while matches!(ended, Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
            ended = atoll.child.try_wait();
        }
        self.kill();
        matches!(ended, Ok(Some(status)) if status.success())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.end();
    }
}

/// A sandbox as most are.
pub(crate) fn request() -> CreateSandboxRequest {
    CreateSandboxRequest { memory_mb: Some(MEMORY_MB.into()), ..CreateSandboxRequest::default() }
}

/// Runs a shell command in a sandbox.
pub(crate) async fn shell(client: &Client, id: &str, script: &str) -> Result<ExecResponse, String> {
    let args = vec!["-c".to_owned(), script.to_owned()];
    let request = ExecRequest { cmd: "/bin/sh".into(), args, timeout_sec: Some(180), ..ExecRequest::default() };
    client.exec(id, &request).await.map_err(|e: ClientError| format!("exec in {id}: {e}"))
}
