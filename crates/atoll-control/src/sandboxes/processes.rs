//! Processes that are not waited for: started, followed, fed, signalled.
//!
//! How it works: a [`Session`] is a process and the stream of its events. Dropping it leaves the process alone; it is found again by its
//! tag or pid, from any byte of its output that the agent still has.
//!
//! Deliberately absent: keeping output here. The agent does, and a slow reader is told what it missed.

use std::collections::BTreeMap;
use std::time::Duration;

use atoll_domain::record::Sandbox;
use atoll_domain::{Invalid, Principal, validate};
use atoll_guest_client::{
    AGENT_KNOWS_OPERATIONS, Code, GuestClient, GuestError, InputSink, Limits, Phase, ProcessEvent, ProcessInfo,
    ProcessStream, PtySize, Reason, Selector, StartRequest,
};

use super::exec::DEFAULT_USER;
use super::frozen::thawed;
use crate::random::{bytes, hex};
use crate::streams::StreamPermit;
use crate::{Control, ControlError, What};

const SIGKILL: i32 = 9;
/// Longer than any sandbox is looked after by one Atoll.
const FOREVER: Duration = Duration::from_hours(10 * 365 * 24);

/// What is to be started.
#[derive(Debug, Clone, Default)]
pub struct StartInput {
    /// The program.
    pub cmd: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Where; absent means the user's home.
    pub cwd: Option<String>,
    /// Variables besides the sandbox's own.
    pub envs: BTreeMap<String, String>,
    /// As whom; absent means root.
    pub user: Option<String>,
    /// A name to find it by; absent means that one is made.
    pub tag: Option<String>,
    /// Seconds that it may take; absent and 0 mean without end.
    pub timeout_sec: Option<i64>,
    /// Keeps standard input open.
    pub stdin: bool,
    /// On a terminal of this size.
    pub pty: Option<PtySize>,
    /// It waits for its reader while that takes what comes, instead of leaving gaps.
    pub backpressure: bool,
}

/// From where a process is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FollowFrom {
    /// From this byte of its output on; 0 means all that is kept.
    pub offset: u64,
    /// As in [`StartInput`].
    pub backpressure: bool,
}

/// A process and what it does.
#[derive(Debug)]
pub struct Session {
    /// Its pid in the guest.
    pub pid: u32,
    /// Its tag, where it has one that is known here.
    pub tag: Option<String>,
    /// An earlier request of the same operation has started it.
    pub known: bool,
    /// Where in its output the events begin, in bytes.
    pub offset: u64,
    /// What it does from here on.
    pub events: ProcessStream,
    /// To act on it while its events are read.
    pub handle: ProcessHandle,
}

/// Acts on one process.
#[derive(Debug, Clone)]
pub struct ProcessHandle {
    control: Control,
    sandbox: Sandbox,
    agent: GuestClient,
    selector: Selector,
}

impl ProcessHandle {
    /// Kills it with its group; one that has ended is no error.
    ///
    /// # Errors
    /// A failing agent.
    pub async fn kill(&self) -> Result<(), ControlError> {
        match self.agent.signal(&self.selector, SIGKILL).await {
            Err(error) if error.code() != Some(Code::NotFound) => Err(ControlError::Guest(error)),
            _ => Ok(()),
        }
    }

    /// Opens one way in for all that is to come: its terminal, or its standard input. That it has none, or has ended, comes as an error later.
    ///
    /// # Errors
    /// A token that fits into no request.
    pub fn open_input(&self, pty: bool) -> Result<InputSink, ControlError> {
        // A process may read when it likes.
        let patient = self.agent.clone().with_limits(Limits { idle: FOREVER, ..Limits::default() });
        patient.open_input(&self.selector, pty).map_err(ControlError::Guest)
    }

    /// Closes its standard input.
    ///
    /// # Errors
    /// It has none, or a failing agent.
    pub async fn close_input(&self) -> Result<(), ControlError> {
        self.agent.close_stdin(&self.selector).await.map_err(ControlError::Guest)
    }

    /// Changes the size of its terminal.
    ///
    /// # Errors
    /// It has none, or a failing agent.
    pub async fn resize(&self, size: PtySize) -> Result<(), ControlError> {
        self.agent.resize(&self.selector, size).await.map_err(ControlError::Guest)
    }

    /// What the end of its events by an error means.
    pub async fn why(&self, error: GuestError) -> ControlError {
        if error.code() == Some(Code::DeadlineExceeded) {
            return ControlError::ProcessTimeout;
        }
        self.control.why_lost(&self.sandbox, error).await
    }

    /// Counts as a use of the sandbox.
    pub fn touch(&self) {
        self.control.used(&self.sandbox.id);
    }
}

impl Control {
    /// Lets one more stream of a running sandbox in.
    ///
    /// # Errors
    /// Not found, not running, too many.
    pub async fn open_stream(&self, principal: &Principal, id: &str) -> Result<StreamPermit, ControlError> {
        let sandbox = self.running(principal, id).await?;
        self.streams().open(&sandbox.id)
    }

    /// Starts a process and follows it; it lives on when the session is dropped.
    ///
    /// # Errors
    /// Input out of bounds, a tag in use, not running, no such program or directory, a failing agent.
    pub async fn start_process(
        &self,
        principal: &Principal,
        id: &str,
        input: StartInput,
    ) -> Result<Session, ControlError> {
        self.try_start(principal, id, input, None).await.map_err(|unstarted| unstarted.error)
    }

    /// The same under an operation, and says besides whether it may run although no start was heard.
    pub(crate) async fn try_start(
        &self,
        principal: &Principal,
        id: &str,
        input: StartInput,
        operation: Option<Operation>,
    ) -> Result<Session, Unstarted> {
        validate::command(&input.cmd, &input.args)?;
        validate::envs(input.envs.iter().map(|(k, v)| (k.as_str(), v.as_str())))?;
        let user = input.user.filter(|user| !user.is_empty()).unwrap_or_else(|| DEFAULT_USER.to_owned());
        validate::user(&user)?;
        let cwd = input.cwd.filter(|cwd| !cwd.is_empty());
        if let Some(cwd) = &cwd {
            validate::path("cwd", cwd)?;
        }
        let timeout = match input.timeout_sec {
            None | Some(0) => None,
            limit => Some(Duration::from_secs(validate::exec_timeout_sec(limit)?.into())),
        };
        let given = input.tag.filter(|tag| !tag.is_empty());
        if let Some(tag) = &given {
            validate::tag(tag)?;
        }
        let sandbox = self.running(principal, id).await?;
        let agent = self.agent(&sandbox).await?;
        let tag = match given {
            // Its own process may have it already.
            Some(tag) if operation.as_ref().is_some_and(|operation| operation.again) => tag,
            Some(tag) => self.free_tag(&sandbox, &agent, tag).await?,
            None => made_tag(if input.pty.is_some() { "pty" } else { "proc" })?,
        };
        self.used(&sandbox.id);
        let request = StartRequest {
            cmd: input.cmd.clone(),
            args: input.args,
            envs: input.envs,
            cwd,
            user: Some(user),
            tag: Some(tag.clone()),
            operation: operation.map(|operation| operation.name),
            stdin: input.stdin,
            pty: input.pty,
            timeout,
            backpressure: input.backpressure,
        };
        let started = || async {
            let events = agent.start(&request).await?;
            follow(events).await
        };
        match thawed(started).await {
            Ok(begun) => Ok(self.session(sandbox, agent, Some(tag), begun)),
            Err(error) => {
                let perhaps = may_have_started(&error);
                let error = match from_start_refusal(error, &input.cmd, &tag) {
                    ControlError::Guest(error) => self.why_lost(&sandbox, error).await,
                    other => other,
                };
                Err(Unstarted { error, perhaps })
            }
        }
    }

    /// Whether the agent of a sandbox starts an operation once, however often it is asked.
    pub(crate) async fn knows_operations(&self, principal: &Principal, id: &str) -> Result<bool, ControlError> {
        let sandbox = self.running(principal, id).await?;
        match self.agent(&sandbox).await?.health().await {
            Ok(health) => Ok(health.protocol >= AGENT_KNOWS_OPERATIONS),
            Err(error) => Err(self.why_lost(&sandbox, error).await),
        }
    }

    /// Follows a process that is there, from a byte of its output on.
    ///
    /// # Errors
    /// Not found, not running, a failing agent.
    pub async fn follow_process(
        &self,
        principal: &Principal,
        id: &str,
        process: &str,
        from: FollowFrom,
    ) -> Result<Session, ControlError> {
        let selector = selector(process)?;
        let sandbox = self.running(principal, id).await?;
        let agent = self.agent(&sandbox).await?;
        self.used(&sandbox.id);
        let followed = async {
            let events = if from.backpressure {
                agent.connect_with_backpressure(&selector, from.offset).await?
            } else {
                agent.connect(&selector, from.offset).await?
            };
            follow(events).await
        };
        match followed.await {
            Ok(begun) => {
                let tag = match selector {
                    Selector::Tag(tag) => Some(tag),
                    Selector::Pid(_) => None,
                };
                Ok(self.session(sandbox, agent, tag, begun))
            }
            Err(error) => Err(self.lost_process(&sandbox, error, process).await),
        }
    }

    /// The processes that were started through the agent and run.
    ///
    /// # Errors
    /// Not found, not running, a failing agent.
    pub async fn processes(&self, principal: &Principal, id: &str) -> Result<Vec<ProcessInfo>, ControlError> {
        let sandbox = self.running(principal, id).await?;
        let agent = self.agent(&sandbox).await?;
        self.used(&sandbox.id);
        match agent.list().await {
            Ok(processes) => Ok(processes),
            Err(error) => Err(self.why_lost(&sandbox, error).await),
        }
    }

    /// Sends a signal to a process's group.
    ///
    /// # Errors
    /// A signal that is none, no such process, not running, a failing agent.
    pub async fn signal_process(
        &self,
        principal: &Principal,
        id: &str,
        process: &str,
        signal: Option<&str>,
    ) -> Result<(), ControlError> {
        let (selector, signal) = (selector(process)?, validate::signal(signal)?);
        let sandbox = self.running(principal, id).await?;
        let agent = self.agent(&sandbox).await?;
        self.used(&sandbox.id);
        match agent.signal(&selector, signal).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.lost_process(&sandbox, error, process).await),
        }
    }

    /// How many streams are open in all.
    pub fn open_streams(&self) -> u64 {
        self.streams().total()
    }

    fn session(&self, sandbox: Sandbox, agent: GuestClient, tag: Option<String>, begun: Begun) -> Session {
        let Begun { pid, offset, known, events } = begun;
        let handle = ProcessHandle { control: self.clone(), sandbox, agent, selector: Selector::Pid(pid) };
        Session { pid, tag, known, offset, events, handle }
    }

    /// A tag that no running process has. Of two that ask at once the agent refuses one, unless it is older than that.
    async fn free_tag(&self, sandbox: &Sandbox, agent: &GuestClient, tag: String) -> Result<String, ControlError> {
        let running = match agent.list().await {
            Ok(running) => running,
            Err(error) => return Err(self.why_lost(sandbox, error).await),
        };
        if running.iter().any(|process| process.tag.as_deref() == Some(&tag)) {
            return Err(tag_taken(&tag));
        }
        Ok(tag)
    }

    async fn lost_process(&self, sandbox: &Sandbox, error: GuestError, process: &str) -> ControlError {
        match error.code() {
            Some(Code::NotFound) => {
                ControlError::NotFound { what: What::Process, id: process.chars().take(64).collect() }
            }
            _ => self.why_lost(sandbox, error).await,
        }
    }
}

/// What an agent carries out once, however often it is asked.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) name: String,
    /// It was asked before.
    pub(crate) again: bool,
}

/// A process of which no start was heard.
#[derive(Debug)]
pub(crate) struct Unstarted {
    pub(crate) error: ControlError,
    /// It may run all the same: only the answer is missing.
    pub(crate) perhaps: bool,
}

impl From<ControlError> for Unstarted {
    fn from(error: ControlError) -> Self {
        Self { error, perhaps: false }
    }
}

impl From<Invalid> for Unstarted {
    fn from(invalid: Invalid) -> Self {
        Self::from(ControlError::Invalid(invalid))
    }
}

/// What an agent that was asked and did not answer may have done. What it refuses it has not started, but for a fault of its own.
fn may_have_started(error: &GuestError) -> bool {
    match error {
        GuestError::Dial(_) | GuestError::Timeout { phase: Phase::Dial, .. } => false,
        GuestError::Rejected { code, .. } => matches!(
            code,
            Code::Internal | Code::Unknown | Code::Canceled | Code::Aborted | Code::DataLoss | Code::DeadlineExceeded
        ),
        _ => true,
    }
}

fn tag_taken(tag: &str) -> ControlError {
    ControlError::Conflict { what: format!("a running process with the tag `{tag}`") }
}

/// A process as its first event names it, and the events behind that.
struct Begun {
    pid: u32,
    offset: u64,
    known: bool,
    events: ProcessStream,
}

/// Waits for the first event.
async fn follow(mut events: ProcessStream) -> Result<Begun, GuestError> {
    loop {
        match events.next().await? {
            Some(ProcessEvent::Started { pid, offset, known }) => return Ok(Begun { pid, offset, known, events }),
            Some(ProcessEvent::Keepalive) => {}
            _ => return Err(GuestError::Protocol("a process that did not begin".into())),
        }
    }
}

/// A tag for a process that was given none.
pub(crate) fn made_tag(kind: &str) -> Result<String, ControlError> {
    Ok(format!("{kind}-{}", hex(&bytes::<4>()?)))
}

/// Digits alone are a pid, anything else is a tag.
fn selector(process: &str) -> Result<Selector, ControlError> {
    if !process.is_empty() && process.bytes().all(|b| b.is_ascii_digit()) {
        let missing = || ControlError::NotFound { what: What::Process, id: process.chars().take(64).collect() };
        return process.parse().map(Selector::Pid).map_err(|_| missing());
    }
    validate::tag(process)?;
    Ok(Selector::Tag(process.to_owned()))
}

fn from_start_refusal(error: GuestError, cmd: &str, tag: &str) -> ControlError {
    let field = |name: &str, code: &str, detail: String| ControlError::Invalid(Invalid::new(name, code, detail));
    let shown: String = cmd.chars().take(64).collect();
    match error.reason() {
        Some(Reason::ProgramNotFound) => field("cmd", "not_found", format!("{shown}: command not found")),
        Some(Reason::NotExecutable) => field("cmd", "not_executable", format!("{shown}: cannot be executed")),
        Some(Reason::BadCwd) => field("cwd", "not_found", "there is no such directory in the sandbox".into()),
        Some(Reason::UnknownUser) => field("user", "not_found", "there is no such user in the sandbox".into()),
        Some(Reason::TagTaken) => tag_taken(tag),
        _ => ControlError::Guest(error),
    }
}
