//! Letting a paused sandbox go on.
//!
//! How it works: the manifest is checked and compared with this machine before anything is made. Then network and groups are made again
//! and a keeper restores the VM, which stands still. The journal's `Running` is the point of no return: from then on the VM
//! is the sandbox, and its processors run; the agent is told the time, fresh randomness and who it is, and thaws user code. A
//! failure before that point leaves what is kept as it was; after it, memory that did not come to life is given up and the disk
//! stays: nothing was acknowledged by that VM. A destroy ends every wait for the VM or its guest, and the release takes all.
//!
//! With mode `disk`, and where only the disk was kept, the guest boots from the snapshot's own kernel and image.
//!
//! Deliberately absent: falling back by itself. Memory that cannot be used is an error with the reason.

use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

use atoll_domain::host::{Call, HostError, PauseMode, SandboxSecrets};
use atoll_domain::snapshot::{Digest as DomainDigest, Manifest, MemoryReason, Verdict, judge};
use atoll_keeper::client::{ClientError, Connected, KeeperProcess};
use atoll_keeper::memory::Digest;
use atoll_keeper::protocol::State;
use atoll_keeper::spec::{self, Verified};

use super::boot;
use super::flattening::Flattening;
use super::vmm::{self, Alive, Beginning};
use super::work::{Context, Finished};
use crate::error::{failed, from_client, from_keeper, from_net, join_failed};
use crate::generation;
use crate::history::History;
use crate::journal::{Base, Entry, Kept};
use crate::ready::Ready;
use crate::sources::By;
use crate::{Step, admission};

/// What a resume is to do.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) call: Call,
    pub(super) mode: PauseMode,
    pub(super) secrets: Arc<SandboxSecrets>,
}

/// Why a resume failed.
struct ResumeFailure {
    pub(super) error: HostError,
    /// The VM had begun to run: the memory that was kept is of no use any more.
    pub(super) memory_lost: bool,
}

impl From<HostError> for ResumeFailure {
    fn from(error: HostError) -> Self {
        Self { error, memory_lost: false }
    }
}

pub(super) async fn run(context: Context, mut kept: Kept, order: Order, flattening: Flattening) -> Finished {
    flattening.stop_for(&mut kept).await;
    let mut process = None;
    let resumed = resume(&context, &kept, &order, &mut process).await;
    if let Err(failure) = &resumed {
        tracing::warn!(sandbox.id = %context.spec.id, error = %failure.error, "a sandbox could not be resumed");
        if context.is_destroyed() {
            // Nothing is kept of it: the release comes next and takes all that is left.
            vmm::give_up(process).await;
        } else {
            step_back(&context, &mut kept, order.mode, failure.memory_lost, process).await;
        }
    }
    Finished::Resumed(resumed.map_err(|failure| (failure.error, Box::new(kept))))
}

/// Makes it paused again after a resume that failed: without its memory, if the VM had begun to run.
async fn step_back(
    context: &Context,
    kept: &mut Kept,
    mode: PauseMode,
    memory_lost: bool,
    process: Option<KeeperProcess>,
) {
    if memory_lost {
        kept.paused.memory_lost = mode == PauseMode::Memory && kept.paused.generation.is_some();
        kept.paused.generation = None;
        kept.diff = false;
    }
    // First of all: `Running` without a VM is a sandbox that is over, with its disk.
    let mut written = true;
    if (memory_lost || runs_by_its_journal(context).await)
        && let Err(error) = context.journal(Entry::Paused(Box::new(kept.clone()))).await
    {
        tracing::error!(sandbox.id = %context.spec.id, %error, "the journal could not be written");
        written = false;
    }
    let useless = memory_lost && written;
    vmm::give_up(process).await;
    let (shared, spec) = (context.shared.clone(), context.spec.clone());
    let dir = context.dir.clone();
    let removed = tokio::task::spawn_blocking(move || {
        super::release::give_vm_back(&shared, &spec)?;
        if useless {
            // Its memory, and what that rests on.
            generation::tidy(&dir, None, None).map_err(|e| failed(&e))?;
            super::rest_on(&shared, &spec.id, None)?;
        }
        Ok::<_, HostError>(())
    })
    .await;
    if !matches!(removed, Ok(Ok(()))) {
        tracing::error!(sandbox.id = %context.spec.id, "what a failed resume made could not be removed");
    }
}

/// Whether the journal says that there is a VM; one that cannot be read is no reason to write to it.
async fn runs_by_its_journal(context: &Context) -> bool {
    let dir = context.dir.clone();
    let read = tokio::task::spawn_blocking(move || History::read(&dir)).await;
    read.is_ok_and(|history| history.is_ok_and(|history| history.paused().is_none()))
}

async fn resume(
    context: &Context,
    kept: &Kept,
    order: &Order,
    process: &mut Option<KeeperProcess>,
) -> Result<Box<Alive>, ResumeFailure> {
    let shared = &context.shared;
    let ready = context.or_cancelled(shared.ready()).await?;
    let restore = match order.mode {
        PauseMode::Disk => None,
        PauseMode::Memory => Some(restorable(context, kept, &ready).await?),
    };
    // Before memory is given up for a boot that could not be.
    let by = if restore.is_some() { By::Restore } else { By::Boot };
    context.sources_there(&kept.sources, by).await?;
    admission::check(shared.data.root(), &context.spec, shared.promised(Some(&context.spec.id)))?;
    let _permit = context.or_cancelled(context.boot_permit()).await?;
    context.journal(Entry::Resuming { call: order.call.clone() }).await?;
    let started = Instant::now();
    make_vm_parts(context).await?;
    context.phase("network", started, |_| {});
    context.called_off()?;
    let started = Instant::now();
    let gives_up = restore.is_none() && kept.paused.generation.is_some();
    if gives_up {
        // The guest that boots changes the disk, which that memory knows as it was.
        context.journal(Entry::MemoryLost).await?;
    }
    let failed_so = |error: HostError| ResumeFailure { error, memory_lost: gives_up };
    let begun = begin(context, kept, order, &ready, restore.as_ref(), process).await.map_err(failed_so)?;
    context.phase("keeper", started, |_| {});
    let (connected, state, shared_base) = begun;
    let started = Instant::now();
    if restore.is_some() {
        let restored = async { connected.client.await_restore().await.map_err(corrupt) };
        context.or_destroyed(restored).await?;
        context.called_off()?;
    }
    vmm::note_processes(context, &state).await.map_err(failed_so)?;
    let lost = |error: HostError| ResumeFailure { error, memory_lost: true };
    if restore.is_some() {
        // Not even a power cut may bring back what is kept once this VM's guest has written to its disk.
        vmm::settle(context).await?;
        Step::Continue.before();
        connected.client.resume().await.map_err(|error| lost(from_client(error)))?;
        Step::Continue.after();
    }
    context.phase("restore", started, |facts| {
        facts.keeper_pid = Some(state.keeper_pid);
        facts.vmm_pid = Some(state.vmm_pid);
        facts.phases.retain(|phase| phase.name != "adopt");
    });
    let started = Instant::now();
    let sockets = crate::dial::Sockets::new(connected.client.clone());
    // A booted guest's agent has no token yet; a restored one has the one that it had.
    let known = restore.as_ref().map(|_| &order.secrets.token);
    let agent = vmm::agent(&sockets, known);
    // A guest that does not answer keeps nobody from destroying it: its VM goes, and the release takes the rest.
    let answers = context.or_destroyed(vmm::answers("resume", &ready, &context.spec.id, &sockets, &connected.client));
    let settled = async { if restore.is_none() { vmm::settle(context).await } else { Ok(()) } };
    let (protocol, ()) = tokio::try_join!(answers, settled).map_err(lost)?;
    Step::Init.before();
    let life = generation::fresh_id().map_err(lost)?;
    let identity = vmm::identity(context, &order.secrets, Some(life)).map_err(lost)?;
    context.or_destroyed(vmm::introduce(&agent, &identity, &connected.client)).await.map_err(lost)?;
    Step::Init.after();
    context.journal(Entry::Repaired { protocol: Some(protocol) }).await.map_err(lost)?;
    context.phase("init", started, |_| {});
    tidy(context, kept, restore.is_some()).await;
    let process = process.take().ok_or_else(|| HostError::Failed("the keeper is not there".into()))?;
    let alive = Alive::new(connected, process, sockets, shared.data.root(), false);
    Ok(Box::new(alive.mapped_from(shared_base)))
}

/// What is kept of the memory, if it can be used here.
async fn restorable(context: &Context, kept: &Kept, ready: &Arc<Ready>) -> Result<Manifest, HostError> {
    let Some(id) = kept.paused.generation.clone() else {
        return Err(HostError::MemoryUnusable(none_is_kept(kept)));
    };
    let (dir, shared) = (context.dir.clone(), context.shared.clone());
    let read = tokio::task::spawn_blocking(move || generation::manifest(&dir, &id, &shared.signer));
    let manifest = read.await.map_err(join_failed)??;
    let here = context.platform(ready, &kept.sources);
    match judge(&manifest, &here) {
        Verdict::Usable => Ok(manifest),
        Verdict::MemoryUnusable(reason) => Err(HostError::MemoryUnusable(reason)),
        Verdict::Refused(refused) => Err(HostError::Damaged(refused.to_string())),
    }
}

/// Why there is no memory to resume with.
pub(super) fn none_is_kept(kept: &Kept) -> MemoryReason {
    if kept.paused.memory_lost { MemoryReason::Lost } else { MemoryReason::DiskOnly }
}

/// Network and control groups, made anew.
pub(super) async fn make_vm_parts(context: &Context) -> Result<(), HostError> {
    let (shared, spec) = (context.shared.clone(), context.spec.clone());
    let made = tokio::task::spawn_blocking(move || {
        super::release::remove_vm(&shared, &spec)?;
        let plan = shared.plan(&spec).map_err(from_net)?;
        atoll_net::apply(&plan).map_err(from_net)?;
        shared.groups(&spec).map_err(from_keeper)?;
        Ok::<_, HostError>(plan)
    });
    let plan = made.await.map_err(join_failed)??;
    context.facts.send_modify(|facts| {
        facts.phases.clear();
        Context::note_plan(facts, &plan);
    });
    Ok(())
}

async fn begin(
    context: &Context,
    kept: &Kept,
    order: &Order,
    ready: &Arc<Ready>,
    restore: Option<&Manifest>,
    process: &mut Option<KeeperProcess>,
) -> Result<(Connected, State, Option<Arc<File>>), HostError> {
    let mut sources = kept.sources.clone();
    let start = match restore {
        None => {
            sources.base = Base::Empty;
            boot::cold(&sources)
        }
        Some(manifest) => restore_start(context, kept, manifest)?,
    };
    let shared_base = match &sources.base {
        Base::Object { id } => Some(context.shared.objects.sealed_base(id).await?),
        Base::Own { .. } => {
            let (shared, dir, base) = (context.shared.clone(), context.dir.clone(), sources.base.clone());
            let checked = tokio::task::spawn_blocking(move || crate::base::open(&shared.objects, &dir, &base));
            checked.await.map_err(join_failed)??;
            None
        }
        Base::Empty => None,
    };
    let incarnation = order.call.incarnation;
    let beginning = Beginning { attempt: 1, incarnation, sources, start, shared_base: shared_base.clone() };
    let (connected, state) = vmm::start(context, ready, beginning, &order.secrets, process).await?;
    Ok((connected, state, shared_base))
}

fn restore_start(context: &Context, kept: &Kept, manifest: &Manifest) -> Result<spec::Start, HostError> {
    let path = generation::path(&context.dir, &manifest.id);
    let verified = |name: &str, digest: DomainDigest| Verified { path: path.join(name), digest: Digest(digest.0) };
    let none = || HostError::Damaged("the manifest names no device state".into());
    let state = manifest.parts.state.ok_or_else(none)?;
    let diff = manifest.parts.memory_diff.filter(|_| kept.diff);
    Ok(spec::Start::Restore {
        state: verified("state", state.digest),
        diff: diff.map(|part| verified("diff", part.digest)),
    })
}

pub(super) fn corrupt(error: ClientError) -> HostError {
    match error {
        ClientError::Refused(refusal) if refusal.code == "corrupt" => HostError::Damaged(refusal.message),
        other => from_client(other),
    }
}

/// What was kept is not the sandbox any more; its base is, where the VM is mapped from it.
async fn tidy(context: &Context, kept: &Kept, restored: bool) {
    let (shared, id, dir) = (context.shared.clone(), context.spec.id.clone(), context.dir.clone());
    let base = if restored { kept.sources.base.clone() } else { Base::Empty };
    let removed = tokio::task::spawn_blocking(move || {
        generation::tidy(&dir, None, Some(&base)).map_err(|e| failed(&e))?;
        super::rest_on(&shared, &id, Some(&base))
    });
    let removed = removed.await;
    if !matches!(removed, Ok(Ok(()))) {
        tracing::warn!(sandbox.id = %context.spec.id, "what was kept could not be removed; the next pause does");
    }
}
