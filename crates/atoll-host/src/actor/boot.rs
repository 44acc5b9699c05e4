//! Booting a sandbox, and waiting for the guest agent.
//!
//! How it works: boots pass a semaphore as wide as the host has cores, because an emulated boot is all computing; the deadline begins
//! when the VMM has started. The agent that answers is told who it is.
//!
//! Deliberately absent: trying again; `atoll_domain::actor` decides that.

use std::time::Instant;

use atoll_domain::host::HostError;
use atoll_keeper::client::KeeperProcess;
use atoll_keeper::spec;

use super::vmm::{self, Alive, Beginning};
use super::work::{Context, Finished};
use crate::Step;
use crate::dial::Sockets;
use crate::error::failed;
use crate::journal::{Base, Entry, Sources};
use crate::ready::Ready;

pub(super) async fn run(context: Context, attempt: u8) -> Finished {
    let mut process = None;
    let booted = boot(&context, attempt, &mut process).await;
    if booted.is_err() {
        vmm::give_up(process).await;
    }
    Finished::Booted(booted)
}

/// What a cold boot on this host starts from.
pub(super) fn sources(ready: &Ready) -> Sources {
    Sources {
        image: ready.image.path.clone(),
        kernel: ready.kernel.clone(),
        initrd: ready.initrd.clone(),
        base: Base::Empty,
        origin: ready.origin.clone(),
    }
}

/// Where a cold boot begins.
pub(super) fn cold(sources: &Sources) -> spec::Start {
    spec::Start::Cold { kernel: sources.kernel.clone(), initrd: sources.initrd.clone(), cmdline: String::new() }
}

async fn boot(context: &Context, attempt: u8, process: &mut Option<KeeperProcess>) -> Result<Box<Alive>, HostError> {
    let shared = &context.shared;
    let ready = context.or_cancelled(shared.ready()).await?;
    let started = Instant::now();
    let _permit = context.or_cancelled(context.boot_permit()).await?;
    context.phase("queue", started, |_| {});
    let started = Instant::now();
    let secrets = context.secrets.clone().ok_or_else(|| HostError::Failed("the secrets are not there".into()))?;
    let sources = sources(&ready);
    let start = cold(&sources);
    let incarnation = context.call.incarnation;
    let beginning = Beginning { attempt, incarnation, sources, start, shared_base: None };
    let (connected, state) = vmm::start(context, &ready, beginning, &secrets, process).await?;
    vmm::note_processes(context, &state).await?;
    context.phase("keeper", started, |facts| {
        facts.keeper_pid = Some(state.keeper_pid);
        facts.vmm_pid = Some(state.vmm_pid);
    });
    let started = Instant::now();
    let sockets = Sockets::new(connected.client.clone());
    let agent = vmm::agent(&sockets, None);
    let what = format!("boot, try {attempt},");
    context.or_cancelled(vmm::answers(&what, &ready, &context.spec.id, &agent, &connected.client)).await?;
    context.phase("boot", started, |_| {});
    let started = Instant::now();
    Step::Init.before();
    let identity = vmm::identity(&context.spec, &secrets, None)?;
    context.or_cancelled(async { agent.init(&identity).await.map_err(|e| failed(&e)) }).await?;
    Step::Init.after();
    context.journal(Entry::Repaired).await?;
    context.phase("init", started, |_| {});
    let process = process.take().ok_or_else(|| HostError::Failed("the keeper is not there".into()))?;
    Ok(Box::new(Alive::new(connected, process, sockets, shared.data.root(), false)))
}
