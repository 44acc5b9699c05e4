//! Booted, idle guests that are kept so that a create is a restore.
//!
//! How it works: one task. Once images are ready, `atoll_domain::golden` says from the configured shapes, the budget and what is there
//! which goldens to drop and which to boot; each is an object whose holder's name says template, shape and identity (kernel,
//! image, agent and VMM together). One is booted at a time, and none while a sandbox is being made. A create asks [`of`] for one
//! that fits, which notes the use as the time of the object's `used` file.
//!
//! Deliberately absent: sharing between teams of anything but the platform's own templates: there are no others.

use std::fs::{File, FileTimes};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use atoll_domain::golden::{Golden, GoldenShape, Start, Wanted, plan, start};
use atoll_domain::host::{HostError, HostSandboxState, SandboxSpec};
use atoll_domain::objects::{Holder, ObjectId};
use atoll_domain::snapshot::Digest;

use crate::error::{failed, join_failed};
use crate::objects::allocated;
use crate::ready::Ready;
use crate::shared::{Shared, held};
use crate::{actor, admission};

const USED: &str = "used";
/// How often it is looked whether sandboxes are being made.
const IDLE_POLL: Duration = Duration::from_millis(200);
/// A golden that could not be booted is tried again after this.
const RETRY: Duration = Duration::from_secs(60);

/// Keeps goldens until the agent stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    // A boot under way is never dropped: it ends by the same word, and gives its VM back.
    while let Err(error) = keep(&shared).await {
        if shared.stopping.is_cancelled() {
            return;
        }
        tracing::warn!(%error, "a golden could not be made; trying again in a minute");
        if shared.stopping.run_until_cancelled(tokio::time::sleep(RETRY)).await.is_none() {
            return;
        }
    }
}

/// Makes what is there into what shall be there.
async fn keep(shared: &Arc<Shared>) -> Result<(), HostError> {
    let Some(ready) = shared.stopping.run_until_cancelled(shared.ready()).await else { return Ok(()) };
    let ready = ready?;
    let budget = shared.config.golden_budget_mb << 20;
    let (wanted, there) = (wanted(shared, &ready), there(shared).await?);
    let found: Vec<Golden> = there.iter().map(|(golden, _)| golden.clone()).collect();
    let plan = plan(&wanted, &found, budget);
    for at in plan.drop {
        let (shared, name) = (Arc::clone(shared), name_of(&there[at].0));
        let dropped = tokio::task::spawn_blocking(move || shared.objects.release(&Holder::Golden { name }));
        dropped.await.map_err(join_failed)?.map_err(|e| failed(&e))?;
    }
    for at in plan.boot {
        let want = &wanted[at];
        if shared.stopping.run_until_cancelled(quiet(shared)).await.is_none() {
            return Ok(());
        }
        admission::check_shape(shared.data.root(), want.shape.shape(), shared.promised(None))?;
        let name = name(&want.template, want.shape, &want.identity);
        let bytes = actor::golden::build(shared, &want.template, want.shape.shape(), name.clone()).await?;
        tracing::info!(%name, bytes, "a golden is ready");
    }
    Ok(())
}

/// Waits until no sandbox is being made: a boot is all computing.
async fn quiet(shared: &Shared) {
    let starting =
        || held(&shared.sandboxes).values().any(|handle| handle.facts.borrow().state == HostSandboxState::Starting);
    while starting() {
        tokio::time::sleep(IDLE_POLL).await;
    }
}

/// What goldens of this host are made of.
fn identity(ready: &Ready) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for digest in [ready.origin.kernel, ready.origin.base, ready.origin.agent] {
        hasher.update(&digest.0);
    }
    hasher.update(ready.vmm_version.as_bytes());
    hasher.update(format!("{:?}", ready.isolation()).as_bytes());
    Digest(*hasher.finalize().as_bytes())
}

fn wanted(shared: &Shared, ready: &Ready) -> Vec<Wanted> {
    let want = |shape: &GoldenShape| Wanted {
        template: ready.image.template.clone(),
        shape: *shape,
        identity: identity(ready),
        // A guest that has just booted touches about a quarter of a small memory, and 100 MB of a large one.
        bytes: (u64::from(shape.memory_mb) / 4).clamp(32, 160) << 20,
    };
    shared.config.golden_shapes.iter().map(want).collect()
}

fn name(template: &str, shape: GoldenShape, identity: &Digest) -> String {
    format!("{template}-{}x{}-{identity}", shape.vcpus, shape.memory_mb)
}

fn name_of(golden: &Golden) -> String {
    name(&golden.template, golden.shape, &golden.identity)
}

fn parse(name: &str) -> Option<(String, GoldenShape, Digest)> {
    let mut parts = name.rsplitn(3, '-');
    let identity = Digest::try_from(parts.next()?.to_owned()).ok()?;
    let shape = GoldenShape::parse(parts.next()?).ok()?;
    Some((parts.next()?.to_owned(), shape, identity))
}

async fn there(shared: &Arc<Shared>) -> Result<Vec<(Golden, ObjectId)>, HostError> {
    let shared = Arc::clone(shared);
    tokio::task::spawn_blocking(move || list(&shared)).await.map_err(join_failed)
}

/// All that are there. Blocks for a few file system calls each.
fn list(shared: &Shared) -> Vec<(Golden, ObjectId)> {
    let one = |holder: Holder| {
        let Holder::Golden { name } = &holder else { return None };
        let (template, shape, identity) = parse(name)?;
        // One whose files are still to be removed is let go of already.
        let object = shared.objects.of(&holder).filter(|object| shared.objects.there().contains(object))?;
        let path = shared.objects.path(&object);
        let used = std::fs::metadata(path.join(USED)).or_else(|_| std::fs::metadata(&path)).ok()?;
        let used = u64::try_from(used.mtime()).unwrap_or(0);
        let golden = Golden { template, shape, identity, bytes: allocated(&path).ok()?, used };
        Some((golden, object))
    };
    shared.objects.holders().into_iter().filter_map(one).collect()
}

/// The golden that a create is restored from, if there is one that fits; its use is noted. Blocks.
pub(crate) fn of(shared: &Shared, ready: &Ready, spec: &SandboxSpec) -> Option<ObjectId> {
    if spec.cold || shared.config.golden_shapes.is_empty() {
        return None;
    }
    let there = list(shared);
    let goldens: Vec<Golden> = there.iter().map(|(golden, _)| golden.clone()).collect();
    let Start::Restore { golden, .. } = start(&spec.template, spec.shape, &identity(ready), spec.cold, &goldens) else {
        return None;
    };
    let object = there.into_iter().nth(golden)?.1;
    let times = FileTimes::new().set_modified(SystemTime::now());
    let noted = File::create(shared.objects.path(&object).join(USED)).and_then(|file| file.set_times(times));
    if let Err(error) = noted {
        tracing::debug!(%error, "a golden's use could not be written down");
    }
    Some(object)
}
