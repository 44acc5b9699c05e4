//! Claiming the keeper that an earlier Atoll started.
//!
//! How it works: the keeper listens in the sandbox's directory. Its state is compared with the journal (pids, the VMM's start), then
//! it is claimed with a number greater than any before, and gives token and environment back. A keeper that cannot be
//! reached, or keeps something else than was written down, has ended as far as this sandbox goes; what is left of it is
//! killed by the release. One that speaks a newer protocol, or was started from a newer spec, or whose agent is newer, is left
//! running, and so is one that cannot be claimed or repaired now: nothing that may live is ended on a guess.
//!
//! Deliberately absent: asking the guest. A VM that stands still because the disk is full is adopted like any other.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_domain::host::{HostError, HostEventKind, SandboxSecrets};
use atoll_keeper::client::{ClientError, Connected, KeeperProcess, connect};
use atoll_keeper::protocol::State;
use atoll_keeper::{KeeperError, KeeperSpec};

use super::vmm::{self, Alive};
use super::work::{Adoption, Context, Finished};
use crate::Step;
use crate::dial::Sockets;
use crate::error::{failed, join_failed};
use crate::history::History;
use crate::journal::{Base, Entry, Processes};

/// Said of a VM that is stopped because its disk is full.
pub(super) const DISK_FULL: &str = "disk_full";

/// How often a keeper that is busy is asked again.
const BUSY_POLL: Duration = Duration::from_millis(20);

pub(super) async fn run(context: Context) -> Finished {
    let adopted = async { Ok(adopt(&context).await.unwrap_or_else(|adoption| adoption)) };
    Finished::Adopted(context.or_cancelled(adopted).await.unwrap_or_else(Adoption::Failed))
}

async fn adopt(context: &Context) -> Result<Adoption, Adoption> {
    let started = Instant::now();
    match KeeperSpec::read(&context.dir) {
        Err(error @ KeeperError::SpecVersion { found, known }) if found > known => {
            return Err(Adoption::TooNew(error.to_string()));
        }
        // The keeper read it long ago; what it says of itself is what counts.
        Ok(_) | Err(_) => {}
    }
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
    claim(context, &connected, &state).await?;
    let process = KeeperProcess::found(state.keeper_pid).map_err(|_| ended("the keeper ended"))?;
    let secrets = connected.client.secrets().await.map_err(gone)?;
    let secrets: Option<SandboxSecrets> = secrets.and_then(|text| serde_json::from_str(&text).ok());
    let secrets = secrets.ok_or_else(|| ended("the keeper does not hold the sandbox's token"))?;
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
    if history.needs_repair() {
        repair(context, &connected, &secrets).await?;
    }
    tidy(context, &history).await;
    let base = adopt_base(context, &connected, &history).await;
    let sockets = Sockets::new(connected.client.clone());
    let alive = Alive::new(connected, process, sockets, shared.data.root(), halted).mapped_from(base);
    Ok(Adoption::Done(Box::new(alive), secrets.into()))
}

/// An earlier Atoll died while user code stood still for it, or before a guest that had just come up knew who it is. What the
/// keeper does for that Atoll is waited for; then the guest goes on and is told.
async fn repair(context: &Context, connected: &Connected, secrets: &SandboxSecrets) -> Result<(), Adoption> {
    let keeper = &connected.client;
    let state = loop {
        let state = keeper.state().await.map_err(gone)?;
        if state.busy.is_none() {
            break state;
        }
        tokio::time::sleep(BUSY_POLL).await;
    };
    if state.stopped.as_deref().is_some_and(|why| why != DISK_FULL) || state.run_state == "paused" {
        keeper.resume().await.map_err(gone)?;
    }
    let ready = context.shared.ready().await.map_err(Adoption::Failed)?;
    let sockets = Sockets::new(keeper.clone());
    let agent = vmm::agent(&sockets, Some(&secrets.token));
    let answers = vmm::answers("adoption", &ready, &context.spec.id, &sockets, keeper);
    let protocol = Some(answers.await.map_err(Adoption::Failed)?);
    let life = crate::generation::fresh_id().map_err(Adoption::Failed)?;
    let identity = vmm::identity(context, secrets, Some(life)).map_err(Adoption::Failed)?;
    agent.init(&identity).await.map_err(|e| Adoption::Failed(failed(&e)))?;
    context.journal(Entry::Repaired { protocol }).await.map_err(Adoption::Failed)
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
        ClientError::Connect(_) | ClientError::Gone => ended("the keeper ended while no Atoll ran"),
        ClientError::Timeout(_) => ended("the keeper hangs"),
        other => Adoption::Failed(HostError::Failed(other.to_string())),
    }
}

fn gone(error: ClientError) -> Adoption {
    match error {
        ClientError::Gone => ended("the keeper ended"),
        ClientError::Timeout(_) => ended("the keeper hangs"),
        other => Adoption::Failed(failed(&other)),
    }
}
