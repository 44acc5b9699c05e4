//! A sandbox that starts as a copy: of a golden, or of a snapshot template.
//!
//! How it works: its disk was copied from the object; the VM is restored from the object's device state, its memory a private mapping of
//! the object's sealed image. It stands still until the journal says that it is the sandbox's; then its processors run and
//! its agent, frozen in the object, is told that it is somebody else: time, randomness, machine id, name, token, environment.
//! Only then does user code go on. A larger disk is grown at last.
//!
//! Deliberately absent: making objects ([`super::copying`], [`super::golden`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_domain::host::{HostError, SandboxSecrets};
use atoll_domain::objects::ObjectId;
use atoll_domain::snapshot::{Manifest, Verdict, judge};
use atoll_guest_client::GuestClient;
use atoll_keeper::client::{KeeperClient, KeeperProcess};
use atoll_keeper::memory::Digest;
use atoll_keeper::spec::{self, Verified};

use super::boot::{Grow, Up};
use super::resuming::corrupt;
use super::vmm::{self, Beginning};
use super::work::Context;
use crate::Step;
use crate::dial::Sockets;
use crate::error::{failed, from_client, join_failed};
use crate::journal::Sources;
use crate::objects::STATE;
use crate::ready::Ready;
use crate::whole;

/// From the device's new size to the file system's.
const GROW_LIMIT: Duration = Duration::from_secs(20);
const GROW_POLL: Duration = Duration::from_millis(10);

/// Restores the VM of an object and waits for its agent.
pub(super) async fn restore(
    context: &Context,
    ready: &Arc<Ready>,
    attempt: u8,
    object: &ObjectId,
    secrets: &SandboxSecrets,
    process: &mut Option<KeeperProcess>,
) -> Result<Up, HostError> {
    let started = Instant::now();
    let (manifest, sources) = read(context, object).await?;
    match judge(&manifest, &context.platform(ready, &sources)) {
        Verdict::Usable => {}
        Verdict::MemoryUnusable(reason) => return Err(HostError::MemoryUnusable(reason)),
        Verdict::Refused(refused) => return Err(HostError::Damaged(refused.to_string())),
    }
    let shared_base = Some(context.shared.objects.sealed_base(object).await?);
    let none = || HostError::Damaged("the manifest names no device state".into());
    let state = manifest.parts.state.ok_or_else(none)?;
    let path = context.shared.objects.path(object).join(STATE);
    let start = spec::Start::Restore { state: Verified { path, digest: Digest(state.digest.0) }, diff: None };
    let incarnation = context.call.incarnation;
    let beginning = Beginning { attempt, incarnation, sources, start, shared_base: shared_base.clone() };
    let (connected, state) = vmm::start(context, ready, beginning, secrets, process).await?;
    context.phase("keeper", started, |facts| {
        facts.keeper_pid = Some(state.keeper_pid);
        facts.vmm_pid = Some(state.vmm_pid);
    });
    let started = Instant::now();
    context.or_cancelled(async { connected.client.await_restore().await.map_err(corrupt) }).await?;
    vmm::note_processes(context, &state).await?;
    Step::Continue.before();
    connected.client.resume().await.map_err(from_client)?;
    Step::Continue.after();
    let sockets = Sockets::new(connected.client.clone());
    let agent = vmm::agent(&sockets, context.inherited.as_ref());
    let answers = vmm::answers("restore", ready, &context.spec.id, &sockets, &connected.client);
    let protocol = context.or_cancelled(answers).await?;
    context.phase("restore", started, |_| {});
    let grow = Some(Grow(context.spec.shape.disk_mb > manifest.shape.disk_mb));
    Ok(Up { connected, sockets, agent, protocol, grow, shared_base })
}

async fn read(context: &Context, object: &ObjectId) -> Result<(Manifest, Sources), HostError> {
    let (objects, id) = (Arc::clone(&context.shared.objects), object.clone());
    let read = tokio::task::spawn_blocking(move || {
        let manifest = objects.manifest(&id)?;
        let sources = whole::sources(&objects.path(&id), &id, &manifest)?;
        Ok((manifest, sources))
    });
    read.await.map_err(join_failed)?
}

/// Grows device and file system to the size that was asked for.
pub(super) async fn grow(context: &Context, keeper: &KeeperClient, agent: &GuestClient) -> Result<(), HostError> {
    let started = Instant::now();
    let wanted = u64::from(context.spec.shape.disk_mb) << 20;
    keeper.resize_disk(wanted).await.map_err(from_client)?;
    let size = loop {
        let size = agent.grow_disk().await.map_err(|e| failed(&e))?;
        // The guest hears of its device's new size by an interrupt, which may come after this call. What ext4 keeps for itself
        // is well below a sixteenth.
        if size.after >= wanted - wanted / 16 {
            break size;
        }
        if started.elapsed() > GROW_LIMIT {
            let limit_ms = u64::try_from(GROW_LIMIT.as_millis()).unwrap_or(u64::MAX);
            return Err(HostError::Timeout { what: "growing the disk".into(), limit_ms });
        }
        tokio::time::sleep(GROW_POLL).await;
    };
    tracing::debug!(sandbox.id = %context.spec.id, before = size.before, after = size.after, "grew a disk");
    context.phase("grow", started, |_| {});
    Ok(())
}
