//! A real agent as an ordinary process, and a client on its loopback port.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use atoll_guest_client::{
    AccessToken, GuestClient, GuestError, InitRequest, Limits, ProcessEvent, ProcessStream, StartRequest, dial_fn,
};

pub(crate) const TOKEN: &str = "a-token-for-tests-only";

/// An agent of its own for one test; it ends with the test.
pub(crate) struct Agent {
    child: Child,
    pub(crate) address: String,
    pub(crate) dir: tempfile::TempDir,
}

impl Agent {
    /// Starts an agent that needs no `/init`.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts an agent whose programs run in a control group.
    pub(crate) fn start_in(group: &UserGroup) -> Self {
        Self::start_with(&["--user-group", group.0.to_str().unwrap()])
    }

    fn start_with(more: &[&str]) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "this test starts programs as other users: run it as root");
        let mut child = Command::new(env!("CARGO_BIN_EXE_atoll-guest"))
            .args(["agent", "--listen", "127.0.0.1:0", "--no-init"])
            .args(more)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines
            .find_map(|line| line.unwrap().strip_prefix("atoll: agent listens on ").map(str::to_owned))
            .expect("the agent says where it listens");
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address, dir: tempfile::tempdir().unwrap() }
    }

    /// A client without a token.
    pub(crate) fn client(&self) -> GuestClient {
        self.client_with(None, Limits::default())
    }

    pub(crate) fn client_with(&self, token: Option<&str>, limits: Limits) -> GuestClient {
        let address = self.address.clone();
        let dial = dial_fn(move || {
            let address = address.clone();
            async move {
                let stream = tokio::net::TcpStream::connect(address).await?;
                Ok(Box::new(stream) as atoll_guest_client::GuestStream)
            }
        });
        GuestClient::new(dial, token.map(AccessToken::new)).with_limits(limits)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Bytes of memory that the agent holds.
    pub(crate) fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}

/// A control group for one test, with everything in it killed at the end.
pub(crate) struct UserGroup(std::path::PathBuf);

impl UserGroup {
    /// `None` on a machine whose control groups cannot freeze: the real guest's can, and its tests
    /// are with the machine's.
    pub(crate) fn new() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("atoll-test-{}-{number}", std::process::id());
        let made = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
            .map(|root| std::path::Path::new(root).join(&name))
            .into_iter()
            .find(|group| {
                let works = std::fs::create_dir(group).is_ok() && group.join("cgroup.freeze").exists();
                if !works {
                    let _ = std::fs::remove_dir(group);
                }
                works
            });
        if made.is_none() {
            println!("skipped: no control group here can be frozen");
        }
        made.map(Self)
    }
}

impl Drop for UserGroup {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0.join("cgroup.freeze"), "0");
        let _ = std::fs::write(self.0.join("cgroup.kill"), "1");
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            let children = std::fs::read_dir(&self.0).into_iter().flatten().flatten();
            children.filter(|child| child.path().is_dir()).for_each(|child| {
                let _ = std::fs::remove_dir(child.path());
            });
            if std::fs::remove_dir(&self.0).is_ok() || !self.0.exists() {
                return;
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program with arguments, as root.
pub(crate) fn program(cmd: &str, args: &[&str]) -> StartRequest {
    StartRequest {
        cmd: cmd.to_owned(),
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
        user: Some("root".to_owned()),
        ..StartRequest::default()
    }
}

/// A line for the shell, as root.
pub(crate) fn shell(line: &str) -> StartRequest {
    program("/bin/sh", &["-c", line])
}

/// All that a process did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) pid: u32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) pty: Vec<u8>,
    pub(crate) missed: u64,
    pub(crate) exit_code: Option<i32>,
    pub(crate) signal: Option<i32>,
}

/// Reads a stream to its end.
pub(crate) async fn outcome(stream: &mut ProcessStream) -> Result<Outcome, GuestError> {
    let mut outcome = Outcome::default();
    while let Some(event) = stream.next().await? {
        match event {
            ProcessEvent::Started { pid, .. } => outcome.pid = pid,
            ProcessEvent::Stdout(bytes) => outcome.stdout.extend(bytes),
            ProcessEvent::Stderr(bytes) => outcome.stderr.extend(bytes),
            ProcessEvent::Pty(bytes) => outcome.pty.extend(bytes),
            ProcessEvent::Gap { bytes } => outcome.missed += bytes,
            ProcessEvent::Ended { exit_code, signal, .. } => {
                outcome.exit_code = Some(exit_code);
                outcome.signal = signal;
            }
            ProcessEvent::Keepalive => {}
        }
    }
    Ok(outcome)
}

/// Starts a program and waits for its end.
pub(crate) async fn run(client: &GuestClient, start: &StartRequest) -> Result<Outcome, GuestError> {
    outcome(&mut client.start(start).await?).await
}

/// Starts a program and reads up to its `Started`.
pub(crate) async fn started(client: &GuestClient, start: &StartRequest) -> (ProcessStream, u32) {
    let mut stream = client.start(start).await.unwrap();
    match stream.next().await.unwrap() {
        Some(ProcessEvent::Started { pid, .. }) => (stream, pid),
        other => panic!("the first event is {other:?}"),
    }
}

/// `/init` with the token of these tests.
pub(crate) fn init() -> InitRequest {
    InitRequest { access_token: Some(TOKEN.to_owned()), ..InitRequest::default() }
}

/// Waits for a condition of the outside world.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < until, "{what} did not come about in a minute");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether a process exists and is no zombie.
pub(crate) fn alive(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").trim().starts_with('Z'))
}
