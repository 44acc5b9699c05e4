//! Putting a running sandbox on the host's disk.
//!
//! How it works: user code is frozen by its agent (an agent that does not answer within 200 ms is not waited for: what is kept is
//! unquiesced then and may never be copied), the keeper stops the VM and writes devices and changed memory, the manifest is signed,
//! and the journal's `Paused` makes it count. Until then any failure lets the VM go on. [`settle`] ends the VM and gives back what
//! only a VM needs; it does the same after a restart, and finds its work done. A snapshot takes as long as the host's disk needs.
//!
//! ```text
//!   journal Pausing ─> freeze ─> state, diff ─> manifest ─> journal Paused │ ─> end keeper ─> groups, network ─> event
//!        └───────── failed: the VM goes on, user code thaws ───────────────┘
//! ```
//!
//! A pause of the disk alone has the agent write everything back first and keeps no generation.
//!
//! Deliberately absent: the disk's bytes, which stay where they are, and flattening ([`super::flattening`]).

use std::sync::Arc;
use std::time::Duration;

use atoll_domain::host::{HostError, HostEventKind, PauseMode};
use atoll_domain::record::Paused;
use atoll_domain::snapshot::{Digest, FORMAT, Manifest, Part, Parts, Platform};
use atoll_domain::ttl::Cause;
use atoll_guest_client::{GuestClient, PrepareRequest};
use atoll_keeper::client::{ClientError, SnapshotFiles};
use atoll_keeper::protocol::{Snapshot, Then};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::going_on::{Thawing, go_on};
use super::vmm::{self, Alive, Vm};
use super::work::{self, Context, Finished};
use crate::error::{failed, from_client, join_failed, stopping};
use crate::generation;
use crate::journal::{Base, Entry, Journal, Kept, Sources};
use crate::{Step, admission};

/// How long the agent may take to freeze user code before a pause with memory.
const FREEZE: Duration = Duration::from_millis(200);
/// How long it may take to write everything back before a pause of the disk alone.
const SYNC: Duration = Duration::from_secs(30);

/// What a pause is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) mode: PauseMode,
    /// The host does it by itself, so that the event stream tells of it.
    pub(super) by_host: bool,
    pub(super) cause: Option<Cause>,
}

/// What came of a pause.
pub(super) enum PauseOutcome {
    /// It is kept; the VM is to be ended.
    Committed(Box<Alive>, Box<Kept>),
    /// The VM goes on.
    Failed(Box<Alive>, HostError, Thawing),
    /// The VM is gone.
    Ended(Box<Alive>, String),
}

/// Pauses it; `turn` is there if it was waited for while the sandbox ran.
pub(super) async fn run(
    context: Context,
    alive: Box<Alive>,
    order: Order,
    turn: Option<OwnedSemaphorePermit>,
) -> Finished {
    let vm = alive.vm();
    let kept = keep(&context, &vm, order, turn).await;
    Finished::Paused(match kept {
        Ok(kept) => PauseOutcome::Committed(alive, Box::new(kept)),
        Err(error) => {
            tracing::warn!(sandbox.id = %context.spec.id, %error, "a sandbox could not be paused");
            match go_on(&context, &vm).await {
                Ok(thawing) => {
                    // One that was called off did not fail.
                    let called_off = error == HostError::Stopping || context.is_destroyed();
                    if order.by_host && !called_off {
                        let kind = HostEventKind::PauseFailed { reason: error.told(), cause: order.cause };
                        context.tell(kind).await;
                    }
                    PauseOutcome::Failed(alive, error, thawing)
                }
                Err(why) => PauseOutcome::Ended(alive, why),
            }
        }
    })
}

async fn keep(context: &Context, vm: &Vm, order: Order, turn: Option<OwnedSemaphorePermit>) -> Result<Kept, HostError> {
    let shared = &context.shared;
    let permit = async {
        let permit = Arc::clone(&shared.pauses).acquire_owned().await;
        permit.map_err(|_| stopping())
    };
    let _turn = match turn {
        Some(turn) => turn,
        None => context.or_cancelled(permit).await?,
    };
    let id = generation::fresh_id()?;
    let sources = sources(context).await?;
    if order.mode == PauseMode::Memory {
        let others = shared.promised(Some(&context.spec.id));
        admission::check_pause(shared.data.root(), context.spec.shape, context.spec.lifetime.may_pause(), others)?;
    }
    context.journal(Entry::Pausing { generation: id.clone() }).await?;
    let agent = vmm::agent(&vm.sockets, context.token());
    let kept = match order.mode {
        PauseMode::Disk => {
            write_back(context, &agent).await?;
            Kept { paused: paused(None, true, 0), sources, diff: false, by_host: order.by_host, cause: order.cause }
        }
        PauseMode::Memory => {
            let quiesced = freeze(&agent).await;
            context.called_off()?;
            let bytes = write_generation(context, vm, &id, &sources, quiesced).await?;
            let paused = paused(Some(id), quiesced, bytes);
            Kept { paused, sources, diff: true, by_host: order.by_host, cause: order.cause }
        }
    };
    context.called_off()?;
    context.journal(Entry::Paused(Box::new(kept.clone()))).await?;
    Ok(kept)
}

fn paused(generation: Option<String>, quiesced: bool, bytes: u64) -> Paused {
    Paused { at: crate::clock::now().wall, generation, quiesced, bytes, memory_lost: false }
}

/// What the running VM was started from.
pub(super) async fn sources(context: &Context) -> Result<Sources, HostError> {
    let history = context.history().await?;
    let none = || HostError::Failed("it was started by an Atoll that could not pause; destroy and make it anew".into());
    history.sources().cloned().ok_or_else(none)
}

/// The machine that its guest was given with its last start, maybe by an earlier Atoll on another VMM.
pub(super) async fn platform(context: &Context, sources: &Sources) -> Result<Platform, HostError> {
    match context.history().await?.platform() {
        Some(platform) => Ok(platform.clone()),
        None => Ok(context.platform(&*context.shared.ready().await?, sources)),
    }
}

/// User code stands still, or the agent is not waited for.
async fn freeze(agent: &GuestClient) -> bool {
    Step::Freeze.before();
    let timeout_ms = u64::try_from(FREEZE.as_millis()).unwrap_or(u64::MAX);
    let request = PrepareRequest { sync: false, freeze: true, timeout_ms };
    let frozen = match timeout(FREEZE, agent.prepare_snapshot(&request)).await {
        Ok(Ok(prepared)) => prepared.frozen,
        Ok(Err(error)) => {
            tracing::info!(%error, "an agent did not freeze user code");
            false
        }
        Err(_) => false,
    };
    Step::Freeze.after();
    frozen
}

/// Everything that the guest wrote is on its disk, and user code stands still.
async fn write_back(context: &Context, agent: &GuestClient) -> Result<(), HostError> {
    Step::Freeze.before();
    let timeout_ms = u64::try_from(SYNC.as_millis()).unwrap_or(u64::MAX);
    let request = PrepareRequest { sync: true, freeze: true, timeout_ms };
    let asked = async { Ok(timeout(SYNC, agent.prepare_snapshot(&request)).await) };
    match context.or_cancelled(asked).await? {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            tracing::info!(sandbox.id = %context.spec.id, %error, "an agent did not write the disk back");
            return Err(HostError::AgentBusy);
        }
        Err(_) => return Err(HostError::AgentBusy),
    }
    Step::Freeze.after();
    Ok(())
}

/// Writes state, diff and manifest; answers their bytes.
async fn write_generation(
    context: &Context,
    vm: &Vm,
    id: &str,
    sources: &Sources,
    quiesced: bool,
) -> Result<u64, HostError> {
    let (dir, name) = (context.dir.clone(), id.to_owned());
    let made = tokio::task::spawn_blocking(move || {
        let path = generation::create(&dir, &name).map_err(|e| failed(&e))?;
        let files = SnapshotFiles::create(&path).map_err(from_client)?;
        Ok::<_, HostError>((path, files))
    });
    let (path, files) = made.await.map_err(join_failed)??;
    Step::Snapshot.before();
    let snapshot = tokio::select! {
        taken = vm.keeper.snapshot(files, Then::Stay) => taken.map_err(refused)?,
        // It may wait for a slow disk; its keeper is ended with whatever it still writes.
        () = context.destroyed() => return Err(work::being_destroyed()),
    };
    Step::Snapshot.after();
    let manifest = manifest(context, id, sources, &snapshot, quiesced).await?;
    let bytes = snapshot.state_bytes + snapshot.diff_bytes;
    let shared = context.shared.clone();
    let sealed = tokio::task::spawn_blocking(move || generation::seal(&path, &manifest, &shared.signer));
    sealed.await.map_err(join_failed)?.map_err(|e| failed(&e))?;
    Ok(bytes)
}

async fn manifest(
    context: &Context,
    id: &str,
    sources: &Sources,
    snapshot: &Snapshot,
    quiesced: bool,
) -> Result<Manifest, HostError> {
    let part = |bytes: u64, digest: atoll_keeper::memory::Digest| Part { bytes, digest: Digest(digest.0) };
    let memory_bytes = u64::from(context.spec.shape.memory_mb) << 20;
    let memory_base = match &sources.base {
        Base::Empty => None,
        Base::Own { digest, .. } => Some(Part { bytes: memory_bytes, digest: *digest }),
        Base::Object { id } => {
            Some(Part { bytes: memory_bytes, digest: context.shared.objects.base_digest(id).await? })
        }
    };
    Ok(Manifest {
        format: FORMAT,
        id: id.to_owned(),
        created_at: crate::clock::now().wall,
        shape: context.spec.shape,
        template: context.spec.template.clone(),
        platform: platform(context, sources).await?,
        origin: sources.origin.clone(),
        parts: Parts {
            state: Some(part(snapshot.state_bytes, snapshot.state_digest)),
            memory_base,
            memory_diff: Some(part(snapshot.diff_bytes, snapshot.diff_digest)),
            disk: None,
        },
        quiesced,
        copyable: true,
        key: context.shared.signer.id().to_owned(),
    })
}

fn refused(error: ClientError) -> HostError {
    match error {
        ClientError::Refused(refusal) if refusal.code == "no_space" => {
            HostError::NoCapacity { what: "disk_mb".into(), needed: 1, available: 0 }
        }
        other => from_client(other),
    }
}

/// Ends the VM of what is kept, if there is one, and gives back what only a VM needs.
pub(super) async fn settle(context: Context, alive: Option<Box<Alive>>, kept: Kept) -> Finished {
    if let Some(alive) = alive {
        super::release::end_keeper(*alive).await;
    }
    let (shared, spec, dir) = (context.shared.clone(), context.spec.clone(), context.dir.clone());
    let (id, base, diff) = (kept.paused.generation.clone(), kept.sources.base.clone(), kept.diff);
    let given_back = tokio::task::spawn_blocking(move || {
        super::release::give_vm_back(&shared, &spec)?;
        let base = id.as_ref().map(|_| &base);
        generation::tidy(&dir, id.as_deref().map(|id| (id, diff)), base).map_err(|e| failed(&e))?;
        super::rest_on(&shared, &spec.id, base)
    });
    // What could not be given back now is in the way of nothing but itself: the resume, or the release, tries again.
    match given_back.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(sandbox.id = %context.spec.id, %error, "a VM's parts could not be removed"),
        Err(error) => tracing::error!(sandbox.id = %context.spec.id, %error, "a VM's parts could not be removed"),
    }
    // Before it counts as paused: from then on what it used is read from the file.
    let (metrics, id, dir) = (context.shared.metrics.clone(), context.spec.id.clone(), context.dir.clone());
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || metrics.close(&id, &dir)).await {
        tracing::warn!(sandbox.id = %context.spec.id, %error, "the last metrics could not be kept");
    }
    let dir = context.dir.clone();
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || Journal::compact(&dir)).await {
        tracing::warn!(sandbox.id = %context.spec.id, %error, "a journal could not be shortened");
    }
    if kept.by_host && !context.was_told(&kept.paused).await {
        context.tell(HostEventKind::Paused { paused: kept.paused.clone(), cause: kept.cause }).await;
    }
    Finished::Settled
}
