//! Running a command to its end.
//!
//! How it works: one connection to the guest's agent carries the start and everything that the process does. Output is kept up to a
//! bound for each stream and drained beyond it, so that a talkative program ends with its own exit code. The agent kills the
//! process group at the deadline; a backstop here does if the agent does not.
//!
//! Deliberately absent: shells. `cmd` is the program itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_domain::host::{GuestToken, HostError};
use atoll_domain::record::Sandbox;
use atoll_domain::{Invalid, Principal, SandboxId, SandboxStatus, validate};
use atoll_guest_client::{
    AGENT_PORT, AccessToken, Code, GuestClient, GuestError, ProcessEvent, Reason, Selector, StartRequest, dial_fn,
};
use bytes::{Bytes, BytesMut};

use super::frozen::thawed;
use crate::{Control, ControlError, Step, What};

/// Most bytes that are kept of each stream.
const OUTPUT_CAP: usize = 16 * 1024 * 1024;
/// How much later than the agent this side kills.
const BACKSTOP: Duration = Duration::from_secs(10);
const SIGKILL: i32 = 9;
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;
pub(crate) const DEFAULT_USER: &str = "root";

/// What is to be run.
#[derive(Debug, Clone, Default)]
pub struct ExecInput {
    /// The program.
    pub cmd: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Seconds that it may take; absent and 0 mean 30.
    pub timeout_sec: Option<i64>,
    /// Where; absent means the user's home.
    pub cwd: Option<String>,
    /// Variables besides the sandbox's own.
    pub envs: BTreeMap<String, String>,
    /// As whom; absent means root.
    pub user: Option<String>,
}

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecResult {
    /// What it wrote to standard output.
    pub stdout: Bytes,
    /// What it wrote to standard error.
    pub stderr: Bytes,
    /// Whether more was written to standard output than is kept.
    pub stdout_truncated: bool,
    /// The same of standard error.
    pub stderr_truncated: bool,
    /// Its exit code; 128 + the signal that ended it.
    pub exit_code: i32,
    /// How long it took.
    pub duration: Duration,
}

impl Control {
    /// Runs a command in a running sandbox.
    ///
    /// # Errors
    /// Input out of bounds, not running, killed at its deadline, or a failing agent. A program that is not there is no
    /// error: it ends with 127 and says so on standard error, as in a shell.
    pub async fn exec(&self, principal: &Principal, id: &str, input: ExecInput) -> Result<ExecResult, ControlError> {
        validate::command(&input.cmd, &input.args)?;
        validate::envs(input.envs.iter().map(|(k, v)| (k.as_str(), v.as_str())))?;
        let seconds = validate::exec_timeout_sec(input.timeout_sec)?;
        let user = input.user.as_deref().filter(|user| !user.is_empty()).unwrap_or(DEFAULT_USER);
        validate::user(user)?;
        let cwd = input.cwd.filter(|cwd| !cwd.is_empty());
        if let Some(cwd) = &cwd {
            validate::path("cwd", cwd)?;
        }
        let sandbox = self.running(principal, id).await?;
        let agent = self.agent(&sandbox).await?;
        // Somebody waits for it: as long as that lasts the sandbox is in use.
        let _in_use = self.in_use(&sandbox.id);
        let request = StartRequest {
            cmd: input.cmd.clone(),
            args: input.args,
            envs: input.envs,
            cwd,
            user: Some(user.to_owned()),
            tag: None,
            operation: None,
            stdin: false,
            pty: None,
            timeout: Some(Duration::from_secs(seconds.into())),
            // This side reads as fast as it comes, and an answer with holes would be none.
            backpressure: true,
        };
        let started = Instant::now();
        let ended = thawed(|| run(&agent, &request, Duration::from_secs(seconds.into()))).await;
        self.used(&sandbox.id);
        let result = match ended {
            Err(error) => from_refusal(error, &input.cmd, seconds, started),
            Ok(result) => Ok(result),
        };
        match result {
            Err(ControlError::Guest(error)) => {
                let may_run = !matches!(error, GuestError::Dial(_));
                match self.why_lost(&sandbox, error).await {
                    ControlError::Host(HostError::Stopping) if may_run => Err(ControlError::CutOff),
                    why => Err(why),
                }
            }
            other => other,
        }
    }

    /// A client of a sandbox's agent; it is one of so many ([`crate::streams::MAX_CALLS`]) as long as it lives.
    pub(crate) async fn agent(&self, sandbox: &Sandbox) -> Result<GuestClient, ControlError> {
        let permit = self.calls().open(&sandbox.id)?;
        let token = self.token(sandbox).await?;
        let (driver, id) = (Arc::clone(self.driver()), sandbox.id.clone());
        let dial = dial_fn(move || {
            let _held = &permit;
            let (driver, id) = (Arc::clone(&driver), id.clone());
            async move { driver.open_stream(id, AGENT_PORT).await.map_err(std::io::Error::other) }
        });
        Ok(GuestClient::new(dial, Some(AccessToken::new(token.expose()))))
    }

    /// What a sandbox's agent lets in with.
    pub(crate) async fn token(&self, sandbox: &Sandbox) -> Result<GuestToken, ControlError> {
        if let Some(token) = self.known_token(&sandbox.id) {
            return Ok(token);
        }
        let token = self.driver().secrets(sandbox.id.clone()).await.map_err(|e| gone(&sandbox.id, e))?.token;
        self.remember_token(&sandbox.id, token.clone());
        Ok(token)
    }
}

/// A host that has no such sandbox any more: it has stopped, whatever the record says yet.
pub(crate) fn gone(id: &SandboxId, error: HostError) -> ControlError {
    match error {
        HostError::NotFound => ControlError::NotRunning { id: id.to_string(), status: SandboxStatus::Stopped },
        other => other.into(),
    }
}

/// One stream's bytes, up to the bound.
#[derive(Default)]
struct Kept {
    bytes: BytesMut,
    truncated: bool,
}

impl Kept {
    fn push(&mut self, bytes: &Bytes) {
        let room = OUTPUT_CAP - self.bytes.len();
        self.truncated |= bytes.len() > room;
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

async fn run(agent: &GuestClient, request: &StartRequest, limit: Duration) -> Result<ExecResult, GuestError> {
    let started = Instant::now();
    Step::ExecStart.before();
    let mut process = agent.start(request).await?;
    Step::ExecStart.after();
    let (mut stdout, mut stderr, mut pid) = (Kept::default(), Kept::default(), None);
    let follow = async {
        loop {
            match process.next().await? {
                Some(ProcessEvent::Started { pid: started, .. }) => pid = Some(started),
                Some(ProcessEvent::Stdout(bytes) | ProcessEvent::Pty(bytes)) => stdout.push(&bytes),
                Some(ProcessEvent::Stderr(bytes)) => stderr.push(&bytes),
                Some(ProcessEvent::Gap { .. }) => stdout.truncated = true,
                Some(ProcessEvent::Keepalive) => {}
                Some(ProcessEvent::Ended { exit_code, .. }) => return Ok(exit_code),
                None => return Err(GuestError::Protocol("the stream ended before the process".into())),
            }
        }
    };
    let exit_code = match tokio::time::timeout(limit + BACKSTOP, follow).await {
        Ok(ended) => ended?,
        Err(_) => {
            if let Some(pid) = pid {
                // If the agent does not take this either there is no more to be done from here.
                let _ = agent.signal(&Selector::Pid(pid), SIGKILL).await;
            }
            let message = "the process did not end at its deadline".to_owned();
            return Err(GuestError::Rejected { code: Code::DeadlineExceeded, reason: None, message });
        }
    };
    Ok(ExecResult {
        stdout: stdout.bytes.freeze(),
        stderr: stderr.bytes.freeze(),
        stdout_truncated: stdout.truncated,
        stderr_truncated: stderr.truncated,
        exit_code,
        duration: started.elapsed(),
    })
}

/// What the agent's no means for the caller.
fn from_refusal(error: GuestError, cmd: &str, seconds: u32, started: Instant) -> Result<ExecResult, ControlError> {
    let ended = |exit_code, why: &str| ExecResult {
        stdout: Bytes::new(),
        stderr: format!("{}: {why}\n", cmd.chars().take(256).collect::<String>()).into(),
        stdout_truncated: false,
        stderr_truncated: false,
        exit_code,
        duration: started.elapsed(),
    };
    match (error.reason(), error.code()) {
        (Some(Reason::ProgramNotFound), _) => Ok(ended(NOT_FOUND, "command not found")),
        (Some(Reason::NotExecutable), _) => Ok(ended(NOT_EXECUTABLE, "cannot be executed")),
        (Some(Reason::BadCwd), _) => {
            Err(Invalid::new("cwd", "not_found", "there is no such directory in the sandbox").into())
        }
        (Some(Reason::UnknownUser), _) => {
            Err(Invalid::new("user", "not_found", "there is no such user in the sandbox").into())
        }
        (_, Some(Code::DeadlineExceeded)) => Err(ControlError::CommandTimeout { seconds }),
        _ => Err(ControlError::Guest(error)),
    }
}

/// What the agent's no to a file means for the caller.
pub(crate) fn from_file_refusal(error: GuestError, path: &str) -> ControlError {
    match (error.reason(), error.code()) {
        (Some(Reason::DiskFull), _) => ControlError::GuestDiskFull,
        (Some(Reason::IsDirectory), _) => Invalid::new("path", "is_directory", "it is a directory; name a file").into(),
        (Some(Reason::UnknownUser), _) => {
            Invalid::new("user", "not_found", "there is no such user in the sandbox").into()
        }
        (Some(Reason::BadToken), _) => ControlError::Guest(error),
        (_, Some(Code::NotFound)) => ControlError::NotFound { what: What::File, id: path.chars().take(256).collect() },
        (_, Some(Code::PermissionDenied)) => ControlError::GuestDenied("permission denied".into()),
        (_, Some(Code::InvalidArgument)) => {
            Invalid::new("path", "malformed", "the sandbox cannot use this path").into()
        }
        (_, Some(Code::AlreadyExists)) => ControlError::Conflict { what: "a file or directory of that name".into() },
        _ => ControlError::Guest(error),
    }
}
