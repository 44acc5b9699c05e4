//! Bringing a sandbox up for the first time: by a boot, or as a copy of an object ([`super::copy`]).
//!
//! How it works: boots pass a semaphore as wide as the host has cores, because an emulated boot is all computing; the deadline begins
//! when the VMM has started. The agent that answers is told who it is.
//!
//! Deliberately absent: trying again; `atoll_domain::actor` decides that.

use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

use atoll_domain::host::{HostError, SandboxSecrets};
use atoll_domain::snapshot::Digest;
use atoll_guest_client::GuestClient;
use atoll_keeper::client::{Connected, KeeperProcess};
use atoll_keeper::spec;

use super::copy;
use super::prepare::{OWN_KERNEL, OWN_ROOTFS};
use super::vmm::{self, Alive, Beginning};
use super::work::{Context, Finished};
use crate::Step;
use crate::dial::Sockets;
use crate::error::{from_disk, join_failed};
use crate::generation;
use crate::journal::{Base, Entry, Sources};
use crate::ready::Ready;
use crate::sources::By;

pub(super) async fn run(context: Context, attempt: u8) -> Finished {
    let mut process = None;
    let booted = boot(&context, attempt, &mut process).await;
    if booted.is_err() {
        vmm::give_up(process).await;
    }
    Finished::Booted(booted)
}

/// Atoll's own files, as a cold boot starts from them.
pub(super) fn from_the_cache(ready: &Ready) -> Sources {
    Sources {
        image: ready.image.path.clone(),
        kernel: ready.kernel.clone(),
        initrd: ready.initrd.clone(),
        base: Base::Empty,
        origin: ready.origin.clone(),
    }
}

/// What a cold boot on this host starts from: Atoll's files, and where the owner brought some, their copies.
async fn sources(context: &Context, ready: &Ready) -> Result<Sources, HostError> {
    let mut sources = from_the_cache(ready);
    let (own, dir) = (context.spec.own.clone(), context.dir.clone());
    if own.is_empty() {
        return Ok(sources);
    }
    let digested = tokio::task::spawn_blocking(move || {
        if own.kernel.is_some() {
            sources.kernel = dir.join(OWN_KERNEL);
            sources.origin.kernel = Digest(atoll_disk::disk_digest(&sources.kernel).map_err(from_disk)?.0);
        }
        if own.rootfs.is_some() {
            sources.image = dir.join(OWN_ROOTFS);
            sources.origin.base = Digest(atoll_disk::disk_digest(&sources.image).map_err(from_disk)?.0);
        }
        Ok(sources)
    });
    digested.await.map_err(join_failed)?
}

/// Where a cold boot begins.
pub(super) fn cold(sources: &Sources) -> spec::Start {
    spec::Start::Cold { kernel: sources.kernel.clone(), initrd: sources.initrd.clone(), cmdline: String::new() }
}

async fn boot(context: &Context, attempt: u8, process: &mut Option<KeeperProcess>) -> Result<Box<Alive>, HostError> {
    let ready = context.or_cancelled(context.shared.ready()).await?;
    let started = Instant::now();
    let _permit = context.or_cancelled(context.boot_permit()).await?;
    context.phase("queue", started, |_| {});
    let secrets = context.secrets.clone().ok_or_else(|| HostError::Failed("the secrets are not there".into()))?;
    let origin = context.shared.objects.of(&crate::shared::rests(&context.spec.id));
    let up = match origin {
        Some(object) if attempt == 1 || context.spec.snapshot.is_some() => {
            copy::restore(context, &ready, attempt, &object, &secrets, process).await?
        }
        // A golden that does not come to life is no reason to fail: its second try boots.
        Some(_) => {
            own_disk(context).await?;
            come_up(context, &ready, attempt, &secrets, process).await?
        }
        None => come_up(context, &ready, attempt, &secrets, process).await?,
    };
    let started = Instant::now();
    Step::Init.before();
    let generation = up.grow.is_some().then(generation::fresh_id).transpose()?;
    let mut identity = vmm::identity(context, &secrets, generation)?;
    if up.grow.is_some() {
        // A copy is another machine; without this it would keep the name of what it is a copy of.
        identity.machine_id = Some(generation::fresh_id()?);
    }
    let told = context.or_cancelled(vmm::introduce(&up.agent, &identity, &up.connected.client));
    let settled = async { if up.grow.is_some() { vmm::settle(context).await } else { Ok(()) } };
    tokio::try_join!(told, settled)?;
    Step::Init.after();
    if let Some(Grow(true)) = up.grow {
        copy::grow(context, &up.connected.client, &vmm::agent(&up.sockets, Some(&secrets.token))).await?;
    }
    context.journal(Entry::Repaired { protocol: Some(up.protocol) }).await?;
    if up.shared_base.is_none() {
        let (shared, id) = (context.shared.clone(), context.spec.id.clone());
        // Of the golden that did not come to life.
        let let_go = tokio::task::spawn_blocking(move || super::rest_on(&shared, &id, None));
        let_go.await.map_err(join_failed)??;
    }
    context.phase("init", started, |_| {});
    let process = process.take().ok_or_else(|| HostError::Failed("the keeper is not there".into()))?;
    let alive = Alive::new(up.connected, process, up.sockets, context.shared.data.root(), false);
    Ok(Box::new(alive.mapped_from(up.shared_base)))
}

/// An empty disk of the size that was asked for, in place of the golden's: that one is as large as goldens are, and its guest may have
/// begun to write to it.
async fn own_disk(context: &Context) -> Result<(), HostError> {
    let (cache, cow, size) =
        (context.shared.config.cache.clone(), context.dir.join("cow.raw"), context.spec.shape.disk_mb);
    let made = tokio::task::spawn_blocking(move || atoll_disk::create_cow(&cache, &cow, size).map_err(from_disk));
    made.await.map_err(join_failed)?.map(drop)
}

/// A VM whose agent answers and was not told yet who it is.
pub(super) struct Up {
    pub(super) connected: Connected,
    pub(super) sockets: Sockets,
    pub(super) agent: GuestClient,
    /// What it speaks.
    pub(super) protocol: u32,
    /// Of a copy; and whether its disk is to be larger.
    pub(super) grow: Option<Grow>,
    pub(super) shared_base: Option<Arc<File>>,
}

/// Whether a copy's disk is larger than what it is a copy of.
pub(super) struct Grow(pub(super) bool);

/// Boots the kernel and waits for the agent.
pub(super) async fn come_up(
    context: &Context,
    ready: &Arc<Ready>,
    attempt: u8,
    secrets: &SandboxSecrets,
    process: &mut Option<KeeperProcess>,
) -> Result<Up, HostError> {
    let started = Instant::now();
    let sources = sources(context, ready).await?;
    // Nothing is kept yet that could be damaged: the next start of Atoll makes again what the cache lacks.
    context.sources_there(&sources, By::Boot).await.map_err(|error| match error {
        HostError::Damaged(why) => HostError::Failed(why),
        other => other,
    })?;
    let start = cold(&sources);
    let incarnation = context.call.incarnation;
    let beginning = Beginning { attempt, incarnation, sources, start, shared_base: None };
    let (connected, state) = vmm::start(context, ready, beginning, secrets, process).await?;
    vmm::note_processes(context, &state).await?;
    context.phase("keeper", started, |facts| {
        facts.keeper_pid = Some(state.keeper_pid);
        facts.vmm_pid = Some(state.vmm_pid);
    });
    let started = Instant::now();
    let sockets = Sockets::new(connected.client.clone());
    let agent = vmm::agent(&sockets, None);
    let what = format!("boot, try {attempt},");
    let answers = context.or_cancelled(vmm::answers(&what, ready, &context.spec.id, &sockets, &connected.client));
    // The guest boots meanwhile.
    let (protocol, ()) = tokio::try_join!(answers, vmm::settle(context))?;
    context.phase("boot", started, |_| {});
    Ok(Up { connected, sockets, agent, protocol, grow: None, shared_base: None })
}
