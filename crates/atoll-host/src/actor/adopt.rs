//! Claiming the keeper that an earlier Atoll started.
//!
//! How it works: the keeper listens in the sandbox's directory. Its state is compared with the journal (pids, the VMM's start), then
//! it is claimed with a number greater than any before, and gives token and environment back. A keeper that cannot be
//! reached, or keeps something else than was written down, has ended as far as this sandbox goes; what is left of it is
//! killed by the release. One that speaks a newer protocol, or was started from a newer spec, or whose agent is newer, is left
//! running, and so is one that cannot be claimed now: nothing that may live is ended on a guess. User code that stood still for that
//! Atoll goes on, if need be later; a start that nobody was told of has the time that starts have.
//!
//! Its slot is claimed again before that, as the claims may have been wiped. One whose VM ended in a resume that had not come to its
//! end is paused again, with its disk alone.
//!
//! Deliberately absent: asking the guest. A VM that stands still because the disk is full is adopted like any other.

use std::fs::File;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_domain::admission::may_go_on;
use atoll_domain::host::{HostError, HostEventKind, Isolation, SandboxSecrets};
use atoll_keeper::client::{ClientError, Connected, KeeperClient, KeeperProcess, connect};
use atoll_keeper::protocol::State;
use atoll_keeper::{KeeperError, KeeperSpec};
use atoll_net::NetError;
use nix::errno::Errno;

use super::going_on::{self, NotRunning, Thawing};
use super::vmm::{self, Alive};
use super::work::{Adoption, Context, Finished};
use crate::Step;
use crate::admission::disk_free_mb;
use crate::dial::Sockets;
use crate::error::{failed, join_failed};
use crate::history::History;
use crate::journal::{self, Base, Entry, Processes};
use crate::{ready, recovery};

/// Said of a VM that is stopped because its disk is full.
pub(super) const DISK_FULL: &str = "disk_full";

/// How often a keeper that is busy is asked again.
const BUSY_POLL: Duration = Duration::from_millis(20);
/// How often it is looked whether a full disk has space again.
const SPACE_POLL: Duration = Duration::from_secs(1);

pub(super) async fn run(context: Context) -> Finished {
    let adopted = async { Ok(adopt(&context).await.unwrap_or_else(|adoption| adoption)) };
    match context.or_cancelled(adopted).await.unwrap_or_else(Adoption::Failed) {
        Adoption::Ended(why) => Finished::Adopted(fall_back(&context, why).await),
        other => Finished::Adopted(other),
    }
}

/// What has ended in a resume of which nobody was told falls back to its disk, as it does when the Atoll that resumes it sees the end.
async fn fall_back(context: &Context, why: String) -> Adoption {
    let fallen = async {
        let history = context.history().await?;
        let Some(kept) = history.fallen_back() else { return Ok(None) };
        context.journal(Entry::Paused(Box::new(kept.clone()))).await?;
        let call = context.history().await?.call();
        Ok::<_, HostError>(call.map(|call| (call, kept)))
    };
    match fallen.await {
        Ok(Some((call, kept))) => Adoption::FellBack(call, Box::new(kept)),
        Ok(None) => Adoption::Ended(why),
        Err(error) => Adoption::Failed(error),
    }
}

async fn adopt(context: &Context) -> Result<Adoption, Adoption> {
    let started = Instant::now();
    let isolation = match KeeperSpec::read(&context.dir) {
        Err(error @ KeeperError::SpecVersion { found, known }) if found > known => {
            return Err(Adoption::TooNew(error.to_string()));
        }
        Ok(spec) => ready::isolation(&spec.machine.accelerator),
        // The keeper read it long ago; what it says of itself is what counts. It may be the slower kind.
        Err(_) => Isolation::Emulated,
    };
    let dir = context.dir.clone();
    let history = tokio::task::spawn_blocking(move || History::read(&dir)).await;
    let history = history.map_err(|e| Adoption::Failed(join_failed(e)))?.map_err(|e| Adoption::Failed(failed(&e)))?;
    if let Some(Err(why)) = history.agent_protocol().map(vmm::understood) {
        return Err(Adoption::TooNew(why));
    }
    let written = history.running().ok_or_else(|| ended("it was never started"))?;
    let connected = connect(&context.dir, context.spec.id.as_str()).await.map_err(from_connect)?;
    let state = connected.client.state().await.map_err(gone)?;
    compare(written, &state, connected.pid)?;
    claim_slot(context).await?;
    claim(context, &connected, &state).await?;
    let process = KeeperProcess::found(state.keeper_pid).map_err(from_found)?;
    let secrets = secrets_of(connected.client.secrets().await.map_err(gone)?)?;
    // Answered after the pidfd was opened, so that names this keeper; and what happened before the claim is seen here.
    let state = connected.client.state().await.map_err(gone)?;
    if let Some(status) = state.exited {
        return Err(Adoption::Ended(super::exit_reason(status)));
    }
    let halted = state.stopped.as_deref() == Some(DISK_FULL);
    tell_halt(context, &history, halted).await;
    let shared = &context.shared;
    let plan = shared.existing_plan(&context.spec).ok().flatten();
    context.phase("adopt", started, |facts| {
        facts.keeper_pid = Some(state.keeper_pid);
        facts.vmm_pid = Some(state.vmm_pid);
        if let Some(plan) = &plan {
            Context::note_plan(facts, plan);
        }
    });
    let secrets = Arc::new(secrets);
    let context = &Context { secrets: Some(Arc::clone(&secrets)), ..context.clone() };
    let sockets = Sockets::new(connected.client.clone());
    let mut thawing = Thawing::none();
    if history.needs_repair() {
        go_on(context, &connected.client).await?;
        if history.was_introduced() {
            // Its owner may know it for long: it is not given up for an agent that is silent.
            thawing = going_on::thawed(context, &sockets).await;
        } else {
            let keeper = &connected.client;
            while let Err(failed) = introduce(context, keeper, &sockets, isolation).await {
                // Nobody is given up because the disk was full again.
                if !is_halted(keeper).await {
                    return Err(failed);
                }
                go_on(context, keeper).await?;
            }
        }
    }
    tidy(context, &history).await;
    let base = adopt_base(context, &connected, &history).await;
    let alive = Alive::new(connected, process, sockets, shared.data.root(), halted).mapped_from(base);
    Ok(Adoption::Done(Box::new(alive), secrets, thawing))
}

/// An earlier Atoll died while user code stood still for it, or before a guest that had just come up knew who it is. What the
/// keeper does for that Atoll is waited for; then the guest goes on.
async fn go_on(context: &Context, keeper: &KeeperClient) -> Result<(), Adoption> {
    let state = loop {
        let state = keeper.state().await.map_err(gone)?;
        if let Some(status) = state.exited {
            return Err(Adoption::Ended(super::exit_reason(status)));
        }
        let no_space = state.stopped.as_deref() == Some(DISK_FULL);
        match state.busy {
            Some(_) => tokio::time::sleep(BUSY_POLL).await,
            // It would stand still again before its agent could answer.
            None if no_space && !disk_free_mb(context.shared.data.root()).is_ok_and(may_go_on) => {
                tokio::time::sleep(SPACE_POLL).await;
            }
            None => break state,
        }
    };
    if !going_on::stands_still(&state) {
        return Ok(());
    }
    going_on::run_again(keeper).await.map_err(|error| match error {
        NotRunning::Ended(why) => Adoption::Ended(why),
        NotRunning::Silent => Adoption::Failed(HostError::Unavailable(error.to_string())),
    })
}

/// Whether its VM stands still because the host's disk is full.
async fn is_halted(keeper: &KeeperClient) -> bool {
    keeper.state().await.is_ok_and(|state| state.stopped.as_deref() == Some(DISK_FULL))
}

/// Tells a guest that came up, or comes up, for an Atoll that is gone who it is. One that does not answer in the time that a start has is
/// given up as that Atoll would have done: nobody was told of it.
async fn introduce(
    context: &Context,
    keeper: &KeeperClient,
    sockets: &Sockets,
    isolation: Isolation,
) -> Result<(), Adoption> {
    let not_up = |error: HostError| ended(&format!("it did not come up: {error}"));
    let answered = vmm::protocol("adoption", isolation, &context.spec.id, sockets, keeper).await.map_err(not_up)?;
    let protocol = vmm::understood(answered).map_err(Adoption::TooNew)?;
    Step::Init.before();
    let life = crate::generation::fresh_id().map_err(Adoption::Failed)?;
    let secrets = context.secrets.as_deref().ok_or_else(|| ended("the secrets are not there"))?;
    let identity = vmm::identity(context, secrets, Some(life)).map_err(Adoption::Failed)?;
    let agent = vmm::agent(sockets, context.token());
    vmm::introduce(&agent, &identity, keeper).await.map_err(not_up)?;
    Step::Init.after();
    context.journal(Entry::Repaired { protocol: Some(protocol) }).await.map_err(Adoption::Failed)
}

/// What a pause had begun to write, or a resume had been made of: neither is the sandbox.
async fn tidy(context: &Context, history: &History) {
    let Some(base) = history.sources().map(|sources| sources.base.clone()) else { return };
    let (shared, id, dir) = (context.shared.clone(), context.spec.id.clone(), context.dir.clone());
    let tidied = tokio::task::spawn_blocking(move || {
        crate::generation::tidy(&dir, None, Some(&base)).map_err(|e| failed(&e))?;
        super::rest_on(&shared, &id, Some(&base))
    });
    if !matches!(tidied.await, Ok(Ok(()))) {
        tracing::warn!(sandbox.id = %context.spec.id, "what a pause left could not be removed; the next one does");
    }
}

/// The shared memory that its VM is mapped from, for the next one that starts from it.
async fn adopt_base(context: &Context, connected: &Connected, history: &History) -> Option<Arc<File>> {
    let Some(Base::Object { id }) = history.sources().map(|sources| sources.base.clone()) else { return None };
    let file = connected.client.memory_base().await.ok()?;
    context.shared.objects.adopt_base(&id, file.into()).await
}

/// Whether the keeper keeps what was written down.
fn compare(written: &Processes, state: &State, listener: Option<u32>) -> Result<(), Adoption> {
    let same = (state.keeper_pid, state.vmm_pid, state.vmm_start)
        == (written.keeper_pid, written.vmm_pid, written.vmm_start)
        && listener.is_none_or(|pid| pid == written.keeper_pid);
    // Of one that an older Atoll wrote down there is no start; one that has ended meanwhile is found out by its connection.
    let start = journal::start_time(written.keeper_pid).filter(|_| written.keeper_start != 0);
    let same = same && start.is_none_or(|start| start == written.keeper_start);
    if same { Ok(()) } else { Err(ended("its keeper is not the one that was written down")) }
}

/// Claims with the next number; one that was lost, as by a restored backup, must not keep the owner out.
async fn claim(context: &Context, connected: &Connected, state: &State) -> Result<(), Adoption> {
    let data = context.shared.data.clone();
    let drawn = tokio::task::spawn_blocking(move || data.next_claim()).await;
    let drawn = drawn.map_err(|e| Adoption::Failed(join_failed(e)))?;
    // A full disk keeps no sandbox from its owner: the keeper knows the last number, too.
    let number = drawn.unwrap_or(0).max(state.claim + 1);
    Step::Adopt.before();
    connected.client.claim(number).await.map_err(gone)?;
    Step::Adopt.after();
    Ok(())
}

/// The number that addresses, uid and names follow from is this sandbox's also when the claims were wiped. One that was given to somebody
/// else meanwhile is nobody's to use: the VM is left as it is.
async fn claim_slot(context: &Context) -> Result<(), Adoption> {
    let (shared, id, dir) = (context.shared.clone(), context.spec.id.clone(), context.dir.clone());
    let claimed = tokio::task::spawn_blocking(move || match recovery::slot_of_keeper(&dir) {
        Some(slot) => shared.slots.claim_again(&shared.net.instance, &id, shared.net.pool, slot),
        // Its spec cannot be read, and it was claimed long ago.
        None => Ok(()),
    });
    claimed.await.map_err(|e| Adoption::Failed(join_failed(e)))?.map_err(|error| match error {
        taken @ NetError::SlotTaken { .. } => {
            Adoption::Failed(HostError::WrongState { state: format!("without its place on the network: {taken}") })
        }
        other => Adoption::Failed(failed(&other)),
    })
}

/// Tells what happened to the disk while no Atoll ran.
async fn tell_halt(context: &Context, history: &History, halted: bool) {
    if halted != history.halt_told() {
        context.tell(if halted { HostEventKind::DiskFull } else { HostEventKind::Resumed }).await;
    }
}

fn ended(why: &str) -> Adoption {
    Adoption::Ended(why.to_owned())
}

fn from_connect(error: ClientError) -> Adoption {
    match error {
        ClientError::Version(_) => Adoption::TooNew(error.to_string()),
        ClientError::Gone => ended("the keeper ended while no Atoll ran"),
        // No socket, or nobody behind it. Whatever else there is (no descriptors, no memory) says nothing of the keeper.
        ClientError::Connect(why) if matches!(why.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            ended("the keeper ended while no Atoll ran")
        }
        ClientError::Timeout(_) => ended("the keeper hangs"),
        other => Adoption::Failed(HostError::Failed(other.to_string())),
    }
}

fn from_found(error: std::io::Error) -> Adoption {
    match error.raw_os_error() {
        Some(code) if code == Errno::ESRCH as i32 => ended("the keeper ended"),
        _ => Adoption::Failed(failed(&error)),
    }
}

/// Token and environment, as the Atoll before this one gave them to the keeper.
fn secrets_of(text: Option<String>) -> Result<SandboxSecrets, Adoption> {
    let text = text.ok_or_else(|| ended("the keeper does not hold the sandbox's token"))?;
    // The error of the parser may quote what it read.
    serde_json::from_str(&text)
        .map_err(|_| Adoption::TooNew("its secrets are in a form that this one does not know".into()))
}

fn gone(error: ClientError) -> Adoption {
    match error {
        ClientError::Gone => ended("the keeper ended"),
        ClientError::Timeout(_) => ended("the keeper hangs"),
        other => Adoption::Failed(failed(&other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connect_failed(code: Errno) -> Adoption {
        from_connect(ClientError::Connect(code.into()))
    }

    #[test]
    fn only_a_keeper_that_is_known_to_be_gone_has_ended() {
        for code in [Errno::ENOENT, Errno::ECONNREFUSED] {
            assert!(matches!(connect_failed(code), Adoption::Ended(_)), "{code}");
        }
        for code in [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::EAGAIN, Errno::EIO] {
            assert!(matches!(connect_failed(code), Adoption::Failed(_)), "{code}");
            assert!(matches!(from_found(code.into()), Adoption::Failed(_)), "{code}");
        }
        assert!(matches!(from_found(Errno::ESRCH.into()), Adoption::Ended(_)));
        assert!(matches!(from_connect(ClientError::Version("7".into())), Adoption::TooNew(_)));
    }

    #[test]
    fn secrets_of_another_form_are_a_newer_atolls_and_are_not_quoted() {
        assert!(matches!(secrets_of(None), Err(Adoption::Ended(_))));
        let Err(Adoption::TooNew(why)) = secrets_of(Some(r#"{"token_v2":"hidden"}"#.into())) else { panic!("taken") };
        assert!(!why.contains("hidden") && !why.contains("token_v2"), "{why}");
    }

    #[test]
    fn a_keeper_that_is_not_the_one_written_down_is_another() {
        let own = std::process::id();
        let written = Processes {
            keeper_pid: own,
            vmm_pid: 7,
            vmm_start: 8,
            keeper_start: journal::start_time(own).unwrap(),
            boot_id: "b".into(),
            at: 0,
            steady: None,
        };
        let state = State {
            vmm_pid: 7,
            vmm_start: 8,
            keeper_pid: own,
            exited: None,
            run_state: "running".into(),
            stopped: None,
            claim: 1,
            console_offset: 0,
            vmm_log: String::new(),
            phases: Vec::new(),
            busy: None,
            snapshot: None,
        };
        assert!(compare(&written, &state, Some(own)).is_ok());
        assert!(compare(&written, &State { vmm_pid: 9, ..state.clone() }, Some(own)).is_err());
        assert!(compare(&written, &State { vmm_start: 9, ..state.clone() }, Some(own)).is_err());
        assert!(compare(&written, &State { keeper_pid: 1, ..state.clone() }, Some(own)).is_err());
        assert!(compare(&written, &state, Some(1)).is_err(), "another listens");
        let reused = Processes { keeper_start: written.keeper_start + 1, ..written };
        assert!(compare(&reused, &state, Some(own)).is_err(), "the number was given to another process");
    }
}
