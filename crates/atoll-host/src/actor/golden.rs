//! Booting a golden: a guest without an owner, up to the moment at which it would be told who it is.
//!
//! How it works: it is made like any sandbox, under an id that nobody was given, with a tombstone in its journal from the beginning, so that
//! a crash at any point ends in its release. When its agent answers, a snapshot of it becomes an object; then it is given back.
//!
//! Deliberately absent: when, and which ([`crate::goldens`]).

use std::sync::Arc;

use atoll_domain::host::{Call, GuestToken, HostError, OwnFiles, SandboxSecrets, SandboxSpec};
use atoll_domain::objects::{Holder, ObjectId};
use atoll_domain::snapshot::{Digest, Part, Platform};
use atoll_domain::ttl::Lifetime;
use atoll_domain::{Incarnation, Network, OperationId, SandboxId, Shape};
use atoll_keeper::client::{DIFF_FILE, KeeperProcess, SnapshotFiles};
use atoll_keeper::protocol::Then;
use tokio::sync::watch;

use super::copying::{Raw, copy_disk, finish};
use super::flattening::Flattening;
use super::release::{self, Why};
use super::work::{Context, Finished};
use super::{boot, first_facts, pausing, prepare, vmm};
use crate::error::{failed, from_client, join_failed};
use crate::journal::Entry;
use crate::ready::Ready;
use crate::shared::Shared;

/// Boots one of a shape and keeps it under a golden's name; answers its allocated bytes.
pub(crate) async fn build(shared: &Arc<Shared>, template: &str, shape: Shape, name: String) -> Result<u64, HostError> {
    let context = context(shared, template, shape)?;
    let mut process = None;
    let built = make(&context, name, &mut process).await;
    vmm::give_up(process).await;
    let why = Why { reason: "it was a golden's boot".into(), tell: false };
    if let Finished::Released(Err(error)) = release::run(context, None, Flattening::none(), why).await {
        tracing::error!(%error, "a golden's VM could not be given back whole");
    }
    built
}

/// What this host gives to the guest of such a golden. Nothing is made or claimed for it.
pub(crate) fn platform(shared: &Shared, ready: &Ready, template: &str, shape: Shape) -> Platform {
    // Which sandbox it is plays no part.
    let id = SandboxId::from_random([0; 16]);
    let dir = shared.data.sandboxes().join(id.as_str());
    vmm::platform(shared, &spec(id, template, shape), &dir, ready, &boot::from_the_cache(ready))
}

fn spec(id: SandboxId, template: &str, shape: Shape) -> SandboxSpec {
    SandboxSpec {
        id,
        template: template.to_owned(),
        shape,
        network: Network::None,
        default_user: "root".into(),
        lifetime: Lifetime::default(),
        snapshot: None,
        cold: true,
        own: OwnFiles::default(),
    }
}

fn context(shared: &Arc<Shared>, template: &str, shape: Shape) -> Result<Context, HostError> {
    let random = || {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|e| HostError::Failed(format!("no random bytes: {e}")))?;
        Ok::<_, HostError>(bytes)
    };
    let short = |bytes: [u8; 32]| std::array::from_fn(|at| bytes[at]);
    let id = SandboxId::from_random(short(random()?));
    let call = Call { operation: OperationId::from_random(short(random()?)), incarnation: Incarnation::FIRST };
    let spec = spec(id.clone(), template, shape);
    let dir = shared.data.sandboxes().join(id.as_str());
    let secrets = SandboxSecrets { token: GuestToken::from_random(random()?), envs: std::collections::BTreeMap::new() };
    Ok(Context {
        shared: Arc::clone(shared),
        facts: watch::channel(first_facts(call.incarnation, &id, &dir)).0,
        cancel: shared.stopping.child_token(),
        call,
        spec,
        secrets: Some(Arc::new(secrets)),
        inherited: None,
        dir,
    })
}

async fn make(context: &Context, name: String, process: &mut Option<KeeperProcess>) -> Result<u64, HostError> {
    prepare::prepare(context).await?;
    context.journal(Entry::Tombstone { reason: "it was a golden's boot".into(), tell: false }).await?;
    let ready = context.shared.ready().await?;
    let _permit = context.or_cancelled(context.boot_permit()).await?;
    let secrets = context.secrets.clone().ok_or_else(|| HostError::Failed("the secrets are not there".into()))?;
    let up = boot::come_up(context, &ready, 1, &secrets, process).await?;
    let sources = pausing::sources(context).await?;
    let platform = context.platform(&ready, &sources);
    let step = Holder::Step { id: name.clone() };
    let (shared, holder) = (Arc::clone(&context.shared), step.clone());
    let made = tokio::task::spawn_blocking(move || {
        let (object, path) = shared.objects.make(holder)?;
        let files = SnapshotFiles::create(&path).map_err(from_client)?;
        Ok::<_, HostError>((object, path, files))
    });
    let (object, path, files) = made.await.map_err(join_failed)??;
    let fill = async {
        let taken = up.connected.client.snapshot(files, Then::Stay).await.map_err(from_client)?;
        copy_disk(context, &path).await?;
        let raw = Raw {
            platform,
            state: Part { bytes: taken.state_bytes, digest: Digest(taken.state_digest.0) },
            diff: Some((path.join(DIFF_FILE), Digest(taken.diff_digest.0))),
            sources,
        };
        finish(context, &object, &path, raw).await
    };
    let filled = fill.await;
    keep(context, object, filled, step, name).await
}

/// Hands the whole object from the step to the golden; one that is not whole goes with the step.
async fn keep(
    context: &Context,
    object: ObjectId,
    filled: Result<u64, HostError>,
    step: Holder,
    name: String,
) -> Result<u64, HostError> {
    let shared = Arc::clone(&context.shared);
    let settled = tokio::task::spawn_blocking(move || {
        let held = filled.and_then(|bytes| shared.objects.hold(&object, Holder::Golden { name }).map(|()| bytes));
        shared.objects.release(&step).map_err(|e| failed(&e))?;
        held
    });
    settled.await.map_err(join_failed)?
}
