//! Booted, idle guests that are kept so that a create is a restore.
//!
//! How it works: one task. Once images are ready, `atoll_domain::golden` says from the configured shapes, the budget and what is there
//! which goldens to drop and which to boot; each is an object whose holder's name says template, shape and identity (kernel,
//! image, agent and VMM together), and whose manifest says on which machine it can be restored. One is booted at a time, after a
//! while in which no sandbox boots, and what it takes on the disk counts in the next plan. A create asks [`of`] for one that fits,
//! which notes the use as the time of the object's `used` file.
//!
//! Deliberately absent: sharing between teams of anything but the platform's own templates: there are no others.

use std::collections::{BTreeMap, HashSet};
use std::fs::{File, FileTimes};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use atoll_domain::golden::{Golden, GoldenShape, Start, Wanted, plan, start};
use atoll_domain::host::{HostError, SandboxSpec};
use atoll_domain::objects::{Holder, ObjectId};
use atoll_domain::snapshot::{Digest, Verdict, judge};
use tokio::sync::Semaphore;

use crate::data_dir::put;
use crate::error::{failed, join_failed};
use crate::objects::allocated;
use crate::ready::Ready;
use crate::shared::{Shared, boots_at_once};
use crate::{actor, admission};

const USED: &str = "used";
/// How often it is looked whether a VM boots, and for how long.
const IDLE_POLL: Duration = Duration::from_millis(200);
const IDLE_LIMIT: Duration = Duration::from_secs(30);
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
    let mut sizes = Sizes::read(shared.data.root());
    // One that does not count as there when it was made would be made for ever.
    let mut tried = HashSet::new();
    loop {
        let (wanted, there) = (wanted(shared, &ready, &sizes), there(shared, &ready).await?);
        let found: Vec<Golden> = there.iter().map(|found| found.golden.clone()).collect();
        let plan = plan(&wanted, &found, budget);
        let has_dropped = !plan.drop.is_empty();
        for at in plan.drop {
            sizes.note(name_of(&found[at]), found[at].bytes, &wanted);
            let (shared, holder) = (Arc::clone(shared), there[at].holder.clone());
            let dropped = tokio::task::spawn_blocking(move || shared.objects.release(&holder));
            dropped.await.map_err(join_failed)?.map_err(|e| failed(&e))?;
        }
        let named = plan.boot.iter().map(|at| (&wanted[*at], name_of_wanted(&wanted[*at])));
        let Some((want, name)) = named.into_iter().find(|(_, name)| !tried.contains(name)) else {
            // How large the dropped ones were may leave room for one of them.
            if has_dropped {
                continue;
            }
            return Ok(());
        };
        if shared.stopping.run_until_cancelled(quiet(&shared.boots, boots_at_once(), IDLE_LIMIT)).await.is_none() {
            return Ok(());
        }
        admission::check_shape(shared.data.root(), want.shape.shape(), shared.promised(None))?;
        let bytes = actor::golden::build(shared, &want.template, want.shape.shape(), name.clone()).await?;
        tracing::info!(%name, bytes, "a golden is ready");
        sizes.note(name.clone(), bytes, &wanted);
        tried.insert(name);
    }
}

/// Waits until no VM boots, because a boot is all computing; on a host on which one always does, no longer than a while: the golden's
/// own boot takes its turn then, and makes the others shorter.
async fn quiet(boots: &Semaphore, all: usize, limit: Duration) {
    let idle = async {
        while boots.available_permits() < all {
            tokio::time::sleep(IDLE_POLL).await;
        }
    };
    // Either is a reason to begin.
    let _ = tokio::time::timeout(limit, idle).await;
}

/// How large goldens were that were made: kept, so that one that does not fit is not booted again at each start to find that out.
struct Sizes {
    path: PathBuf,
    of: BTreeMap<String, u64>,
}

impl Sizes {
    fn read(data: &Path) -> Self {
        let path = data.join("golden-sizes.json");
        let text = std::fs::read(&path).unwrap_or_default();
        // Without them the first boot tells.
        Self { path, of: serde_json::from_slice(&text).unwrap_or_default() }
    }

    /// Keeps one, and forgets those of goldens that nobody wants any more.
    fn note(&mut self, name: String, bytes: u64, wanted: &[Wanted]) {
        self.of.insert(name, bytes);
        let wanted: HashSet<String> = wanted.iter().map(name_of_wanted).collect();
        self.of.retain(|name, _| wanted.contains(name));
        let written = serde_json::to_vec(&self.of).map_err(std::io::Error::from);
        if let Err(error) = written.and_then(|text| put(&self.path, &text, 0o600)) {
            tracing::debug!(%error, "a golden's size could not be written down");
        }
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

fn wanted(shared: &Shared, ready: &Ready, sizes: &Sizes) -> Vec<Wanted> {
    let (template, identity) = (&ready.image.template, identity(ready));
    let want = |shape: &GoldenShape| {
        // A guest that has just booted touches about a quarter of a small memory, and 100 MB of a large one.
        let expected = (u64::from(shape.memory_mb) / 4).clamp(32, 160) << 20;
        let bytes = sizes.of.get(&name(template, *shape, &identity)).copied().unwrap_or(expected);
        Wanted { template: template.clone(), shape: *shape, identity, bytes }
    };
    shared.config.golden_shapes.iter().map(want).collect()
}

fn name(template: &str, shape: GoldenShape, identity: &Digest) -> String {
    format!("{template}-{}x{}-{identity}", shape.vcpus, shape.memory_mb)
}

fn name_of(golden: &Golden) -> String {
    name(&golden.template, golden.shape, &golden.identity)
}

fn name_of_wanted(wanted: &Wanted) -> String {
    name(&wanted.template, wanted.shape, &wanted.identity)
}

fn parse(name: &str) -> Option<(String, GoldenShape, Digest)> {
    let mut parts = name.rsplitn(3, '-');
    let identity = Digest::try_from(parts.next()?.to_owned()).ok()?;
    let shape = GoldenShape::parse(parts.next()?).ok()?;
    Some((parts.next()?.to_owned(), shape, identity))
}

/// One that is there, and under what.
struct Found {
    golden: Golden,
    holder: Holder,
    object: ObjectId,
    /// Microseconds since 1970. The oldest is the first: what turns out too large goes itself, not one that fitted before it.
    made: i64,
}

async fn there(shared: &Arc<Shared>, ready: &Arc<Ready>) -> Result<Vec<Found>, HostError> {
    let (shared, ready) = (Arc::clone(shared), Arc::clone(ready));
    tokio::task::spawn_blocking(move || list(&shared, &ready)).await.map_err(join_failed)
}

/// All that are there. Blocks for a few file system calls each.
fn list(shared: &Shared, ready: &Ready) -> Vec<Found> {
    let one = |holder: Holder| {
        let Holder::Golden { name } = &holder else { return None };
        let (template, shape, identity) = parse(name)?;
        // One whose files are still to be removed is let go of already.
        let object = shared.objects.of(&holder).filter(|object| shared.objects.there().contains(object))?;
        let path = shared.objects.path(&object);
        let used = std::fs::metadata(path.join(USED)).map_or(0, |used| u64::try_from(used.mtime()).unwrap_or(0));
        let here = actor::golden::platform(shared, ready, &template, shape.shape());
        let manifest = shared.objects.manifest(&object);
        let usable = manifest.as_ref().is_ok_and(|was| judge(was, &here) == Verdict::Usable);
        let made = manifest.map_or(i64::MAX, |manifest| manifest.created_at);
        let golden = Golden { template, shape, identity, usable, bytes: allocated(&path).ok()?, used };
        Some(Found { golden, holder, object, made })
    };
    let mut found: Vec<Found> = shared.objects.holders().into_iter().filter_map(one).collect();
    found.sort_by_key(|found| found.made);
    found
}

/// The golden that a create is restored from, if there is one that fits; its use is noted. Blocks.
pub(crate) fn of(shared: &Shared, ready: &Ready, spec: &SandboxSpec) -> Option<ObjectId> {
    if spec.cold || shared.config.golden_shapes.is_empty() {
        return None;
    }
    let there = list(shared, ready);
    let goldens: Vec<Golden> = there.iter().map(|found| found.golden.clone()).collect();
    let Start::Restore { golden, .. } = start(&spec.template, spec.shape, &identity(ready), spec.cold, &goldens) else {
        return None;
    };
    let object = there.into_iter().nth(golden)?.object;
    let times = FileTimes::new().set_modified(SystemTime::now());
    let noted = File::create(shared.objects.path(&object).join(USED)).and_then(|file| file.set_times(times));
    if let Err(error) = noted {
        tracing::debug!(%error, "a golden's use could not be written down");
    }
    Some(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_golden_waits_for_boots_but_not_for_ever() {
        const LONG: Duration = Duration::from_secs(600);
        let boots = Semaphore::new(2);
        quiet(&boots, 2, LONG).await;
        let one = boots.acquire().await.unwrap();
        let mut waiting = Box::pin(quiet(&boots, 2, LONG));
        assert!(tokio::time::timeout(IDLE_POLL, &mut waiting).await.is_err(), "one boots");
        // On a host that always boots something.
        quiet(&boots, 2, IDLE_POLL).await;
        drop(one);
        waiting.await;
    }

    #[test]
    fn sizes_are_there_at_the_next_start_for_what_is_wanted() {
        let data = tempfile::tempdir().unwrap();
        let shape = GoldenShape { vcpus: 1, memory_mb: 256 };
        let want = Wanted { template: "base".into(), shape, identity: Digest([1; 32]), bytes: 1 };
        let mut sizes = Sizes::read(data.path());
        sizes.note(name_of_wanted(&want), 7, std::slice::from_ref(&want));
        sizes.note("base-1x512-other".into(), 8, std::slice::from_ref(&want));
        let again = Sizes::read(data.path());
        assert_eq!(again.of, BTreeMap::from([(name_of_wanted(&want), 7)]));
        std::fs::write(&again.path, "cut").unwrap();
        assert!(Sizes::read(data.path()).of.is_empty());
    }

    #[test]
    fn whatever_a_golden_is_made_of_names_it() {
        use atoll_domain::snapshot::Origin;
        use atoll_keeper::spec::Accelerator;
        let none = std::path::PathBuf::new;
        let of = |[kernel, base, agent]: [u8; 3], vmm_version: &str, accelerator| {
            let digest = |byte| Digest([byte; 32]);
            let (template, path) = ("base".to_owned(), none());
            let image = atoll_disk::Image { template, key: String::new(), digest: String::new(), path, bytes: 0 };
            let (kernel, base, agent) = (digest(kernel), digest(base), digest(agent));
            identity(&Ready {
                kernel: none(),
                initrd: none(),
                image,
                tree: none(),
                accelerator,
                tsc_khz: 1,
                vmm_version: vmm_version.into(),
                origin: Origin { kernel, base, agent, agent_version: "1".into() },
            })
        };
        let tcg = || Accelerator::Tcg { tsc_khz: 1 };
        let all = [
            of([1, 2, 3], "7.2.22", tcg()),
            of([9, 2, 3], "7.2.22", tcg()),
            of([1, 9, 3], "7.2.22", tcg()),
            of([1, 2, 9], "7.2.22", tcg()),
            of([1, 2, 3], "7.2.23", tcg()),
            of([1, 2, 3], "7.2.22", Accelerator::Kvm),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(all[..at].iter().all(|other| other.0 != one.0), "{at}");
        }
    }
}
