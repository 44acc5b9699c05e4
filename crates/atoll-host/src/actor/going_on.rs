//! Letting a VM go on that stood still, and its user code with it.
//!
//! How it works: first the VMM gives a sign of life, however long that takes: one that writes a guest's disk back to a slow disk of the host's
//! is silent for minutes and has not ended. Then its processors run and the agent is told what time it is, which stood still with
//! them, and thaws user code. One that does not answer now is asked again, every second, for as long as its VM runs; the journal
//! says that nothing is to be repaired only when it did.
//!
//! ```text
//!   sign of life ─> run ─> time and thaw ─> journal Repaired
//!        └ again        └ again  └ again, beside whatever goes on
//! ```
//!
//! Deliberately absent: ending a VM because it is slow. It has ended when its keeper is gone or says so.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use atoll_domain::host::HostError;
use atoll_guest_client::{GuestClient, InitRequest};
use atoll_keeper::client::{ClientError, KeeperClient};
use atoll_keeper::protocol::State;
use tokio::time::timeout;

use super::exit_reason;
use super::vmm::{self, Vm};
use super::work::Context;
use crate::dial::Sockets;
use crate::generation;
use crate::history::History;
use crate::journal::Entry;

/// How long an agent may take to let user code go on before it is asked again.
const THAW: Duration = Duration::from_secs(5);
const THAW_AGAIN: Duration = Duration::from_secs(1);
const AGAIN: Duration = Duration::from_millis(200);
/// How long a VMM may be silent: longer than the slowest of what it was asked for.
const SILENT: Duration = Duration::from_mins(15);

/// The user code of a running VM that still stands still, or none. It never ends, so that it can be polled beside other work.
pub(super) struct Thawing(Option<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl Thawing {
    pub(super) fn none() -> Self {
        Self(None)
    }

    /// Asks the agent until it has answered.
    pub(super) fn begin(context: Context, sockets: Sockets) -> Self {
        Self(Some(Box::pin(async move {
            let agent = vmm::agent(&sockets, context.token());
            while let Err(error) = thaw(&context, &agent).await {
                tracing::debug!(sandbox.id = %context.spec.id, %error, "user code still stands still");
                tokio::time::sleep(THAW_AGAIN).await;
            }
            repaired(&context).await;
        })))
    }
}

impl Future for Thawing {
    type Output = std::convert::Infallible;

    fn poll(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> Poll<Self::Output> {
        if let Some(work) = &mut self.0
            && work.as_mut().poll(context).is_ready()
        {
            self.0 = None;
        }
        Poll::Pending
    }
}

/// Tells a guest whose processors stood still what time it is, and lets its user code go on.
pub(super) async fn thaw(context: &Context, agent: &GuestClient) -> Result<(), HostError> {
    let asked = async {
        if context.token().is_none() {
            return agent.unfreeze().await;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let timestamp_ns = u64::try_from(now.as_nanos()).ok();
        // Nothing else: it is the same guest in the same life, and keeps what its owner has set since.
        agent.init(&InitRequest { timestamp_ns, ..InitRequest::default() }).await
    };
    match timeout(THAW, asked).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(HostError::Failed(format!("the agent did not let user code go on: {error}"))),
        Err(_) => Err(HostError::AgentBusy),
    }
}

/// After a failure: the VM runs and user code thaws, now or as soon as its agent answers; or it is gone and this is why.
pub(super) async fn go_on(context: &Context, vm: &Vm) -> Result<Thawing, String> {
    tokio::select! {
        running = run_again(&vm.keeper) => running.map_err(|error| error.to_string())?,
        // Its VM is ended next.
        () = context.destroyed() => return Ok(Thawing::none()),
    }
    let dir = context.dir.clone();
    let removed = tokio::task::spawn_blocking(move || {
        let base = History::read(&dir)?.sources().map(|sources| sources.base.clone());
        generation::tidy(&dir, None, base.as_ref())
    });
    if let Ok(Err(error)) = removed.await {
        tracing::warn!(sandbox.id = %context.spec.id, %error, "a generation could not be removed; the next pause does");
    }
    tokio::select! {
        thawing = thawed(context, &vm.sockets) => Ok(thawing),
        () = context.destroyed() => Ok(Thawing::none()),
    }
}

/// Lets user code go on. An agent that does not answer now is asked again beside whatever comes next.
pub(super) async fn thawed(context: &Context, sockets: &Sockets) -> Thawing {
    match thaw(context, &vmm::agent(sockets, context.token())).await {
        Ok(()) => {
            repaired(context).await;
            Thawing::none()
        }
        Err(error) => {
            tracing::warn!(sandbox.id = %context.spec.id, %error, "an agent did not thaw user code; it is asked again");
            Thawing::begin(context.clone(), sockets.clone())
        }
    }
}

async fn repaired(context: &Context) {
    if let Err(error) = context.journal(Entry::Repaired { protocol: None }).await {
        tracing::warn!(sandbox.id = %context.spec.id, %error, "the journal could not be written");
    }
}

/// Why a VM does not go on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NotRunning {
    /// Keeper or VMM has ended.
    Ended(String),
    /// It may live, and gave no sign for [`SILENT`].
    Silent,
}

impl fmt::Display for NotRunning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(why) => f.write_str(why),
            Self::Silent => write!(f, "the VM did not go on within {} s", SILENT.as_secs()),
        }
    }
}

/// Waits until the VM runs, letting it go on where it stands still.
pub(super) async fn run_again(keeper: &KeeperClient) -> Result<(), NotRunning> {
    let deadline = Instant::now() + SILENT;
    while !runs(keeper).await? {
        if Instant::now() > deadline {
            return Err(NotRunning::Silent);
        }
        tokio::time::sleep(AGAIN).await;
    }
    Ok(())
}

/// Whether it runs now. Only what is known to be gone has ended; everything else may be slow.
async fn runs(keeper: &KeeperClient) -> Result<bool, NotRunning> {
    // Answered after whatever the VMM was asked before.
    let sign = known(keeper.probe().await)?;
    let Some(state) = known(keeper.state().await)? else { return Ok(false) };
    if let Some(status) = state.exited {
        return Err(NotRunning::Ended(exit_reason(status)));
    }
    if sign.is_none() || state.busy.is_some() {
        return Ok(false);
    }
    if !stands_still(&state) {
        return Ok(true);
    }
    Ok(known(keeper.resume().await)?.is_some())
}

/// Whether its processors stand still: after a stop, or because it was restored and not let go on yet.
pub(super) fn stands_still(state: &State) -> bool {
    state.stopped.is_some() || state.run_state == "paused"
}

fn known<T>(answer: Result<T, ClientError>) -> Result<Option<T>, NotRunning> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(ClientError::Gone) => Err(NotRunning::Ended("the keeper ended".into())),
        Err(error) => {
            tracing::warn!(%error, "a VM that is to go on is slow");
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixListener;
    use std::path::Path;

    use atoll_keeper::protocol::{Answer, Line, Op, Refusal, Request, SOCKET, State, VERSION};

    use super::*;

    fn state(stopped: bool) -> Answer {
        Answer::State(Box::new(State {
            vmm_pid: 7,
            vmm_start: 8,
            keeper_pid: 6,
            exited: None,
            run_state: if stopped { "paused" } else { "running" }.into(),
            stopped: stopped.then(|| "asked".into()),
            claim: 1,
            console_offset: 0,
            vmm_log: String::new(),
            phases: Vec::new(),
            busy: None,
            snapshot: None,
        }))
    }

    /// Stands for a keeper whose VMM is silent for some signs of life and some orders to go on; answers how often it was told to.
    fn slow_keeper(dir: &Path, silent: [usize; 2], ends: bool) -> std::thread::JoinHandle<usize> {
        let listener = UnixListener::bind(dir.join(SOCKET)).unwrap();
        std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut writer = stream.try_clone().unwrap();
            let ([mut signs, mut orders], mut told, mut stopped) = (silent, 0, true);
            for line in BufReader::new(stream).lines() {
                let Ok(Request { id, op }) = serde_json::from_str(&line.unwrap()) else { return told };
                let unless_silent = |left: &mut usize| match left.checked_sub(1) {
                    None => Ok(Answer::Empty),
                    Some(fewer) => {
                        *left = fewer;
                        Err(Refusal::new("vmm_silent", "no answer in time"))
                    }
                };
                let answer = match op {
                    Op::Hello { .. } => Ok(Answer::Hello { version: VERSION, sandbox: "sb".into(), incarnation: 1 }),
                    Op::Probe => unless_silent(&mut signs),
                    Op::State => Ok(state(stopped)),
                    Op::Resume if ends => return told,
                    Op::Resume => {
                        told += 1;
                        let answer = unless_silent(&mut orders);
                        stopped = answer.is_err();
                        answer
                    }
                    _ => Err(Refusal::new("unknown", "not asked here")),
                };
                let line = match answer {
                    Ok(ok) => Line::Done { id, ok },
                    Err(error) => Line::Failed { id, error },
                };
                let mut text = serde_json::to_vec(&line).unwrap();
                text.push(b'\n');
                writer.write_all(&text).unwrap();
            }
            told
        })
    }

    #[tokio::test]
    async fn a_vmm_that_is_silent_has_not_ended() {
        let dir = tempfile::tempdir().unwrap();
        let keeper = slow_keeper(dir.path(), [2, 2], false);
        let connected = atoll_keeper::client::connect(dir.path(), "sb").await.unwrap();
        assert_eq!(run_again(&connected.client).await, Ok(()));
        drop(connected);
        // The connection is closed by a task of this thread's.
        let told = tokio::task::spawn_blocking(move || keeper.join().unwrap()).await.unwrap();
        assert_eq!(told, 3, "it is told only when the VMM gave a sign");
    }

    #[tokio::test]
    async fn a_keeper_that_is_gone_is_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let keeper = slow_keeper(dir.path(), [0, 0], true);
        let connected = atoll_keeper::client::connect(dir.path(), "sb").await.unwrap();
        assert_eq!(run_again(&connected.client).await, Err(NotRunning::Ended("the keeper ended".into())));
        keeper.join().unwrap();
    }
}
