//! Making a snapshot template of a sandbox.
//!
//! How it works: a template is an object: device state, flat memory, disk, manifest. Of a running sandbox, user code is frozen (its
//! agent has five seconds for that, or the sandbox runs on and this is `AgentBusy`), the VM stands still while its changed pages
//! are read and its disk is copied (by reflink; by its data where the file system has none), then it goes on and the rest is done
//! beside it. Of a paused one, what is kept is copied. A step holds the object until it is whole; then the template does. A destroy of
//! the sandbox calls it off within a piece of memory or disk; the copy of the disk itself is made to its end.
//!
//! Deliberately absent: names; the control plane has them.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_disk::{DiskError, disk_digest_while};
use atoll_domain::host::{HostError, MakeTemplate, TemplateFacts};
use atoll_domain::objects::{Holder, ObjectId};
use atoll_domain::snapshot::{Digest, FORMAT, Manifest, Part, Parts, Platform};
use atoll_guest_client::PrepareRequest;
use atoll_keeper::KeeperError;
use atoll_keeper::client::{DIFF_FILE, SnapshotFiles};
use atoll_keeper::memory::flatten::flatten_while;
use atoll_keeper::memory::{Digest as KeeperDigest, digest_of};
use atoll_keeper::protocol::{Event, Snapshot, Then};
use tokio::time::timeout;

use super::flattening::Flattening;
use super::going_on::{self, Thawing};
use super::vmm::{self, Alive};
use super::work::{self, Context, Finished};
use super::{exit_reason, pausing, resuming};
use crate::error::{failed, from_client, from_disk, from_keeper, join_failed, stopping};
use crate::generation;
use crate::journal::{Base, Entry, Kept, Sources};
use crate::objects::{self, DISK, MEMORY, SOURCES, STATE};
use crate::{Step, admission};

/// How long an agent may take to freeze user code.
const FREEZE: Duration = Duration::from_secs(5);

/// What came of it.
pub(super) struct CopyOutcome {
    pub(super) alive: Option<Box<Alive>>,
    /// What is kept of a paused one; a flattening that ended meanwhile has changed it.
    pub(super) kept: Option<Box<Kept>>,
    pub(super) result: Result<TemplateFacts, HostError>,
    /// Its user code, if that still stands still.
    pub(super) thawing: Thawing,
    /// Why the VM is gone, if it is.
    pub(super) ended: Option<String>,
}

/// Of a running sandbox, which runs on.
pub(super) async fn of_running(
    context: Context,
    mut alive: Box<Alive>,
    order: MakeTemplate,
    mut thawing: Thawing,
) -> Finished {
    let result = once(&context, &order, async |object, path| {
        let (sources, taken, stood_still) = take(&context, &mut alive, &object, path, &mut thawing).await?;
        let parts = Raw {
            platform: pausing::platform(&context, &sources).await?,
            state: Part { bytes: taken.state_bytes, digest: Digest(taken.state_digest.0) },
            diff: Some((path.join(DIFF_FILE), Digest(taken.diff_digest.0))),
            sources,
        };
        let bytes = tokio::select! {
            bytes = finish(&context, &object, path, parts) => bytes?,
            never = &mut thawing => match never {},
        };
        Ok((bytes, stood_still))
    })
    .await;
    let mut ended = None;
    let vm = alive.vm();
    if matches!(result, Err(HostError::AgentBusy)) {
        // Its VM never stood still. The agent was waited for long enough; what it may still freeze thaws beside whatever comes next.
        thawing = Thawing::begin(context.clone(), vm.sockets.clone());
    } else if result.is_err() {
        match going_on::go_on(&context, &vm).await {
            Ok(still) => thawing = still,
            Err(why) => ended = Some(why),
        }
    }
    if ended.is_none()
        && let Ok(state) = vm.keeper.state().await
    {
        ended = state.exited.map(exit_reason);
    }
    Finished::Copied(CopyOutcome { alive: Some(alive), kept: None, result, thawing, ended })
}

/// Of a paused one, which stays so.
pub(super) async fn of_paused(
    context: Context,
    mut kept: Kept,
    order: MakeTemplate,
    flattening: Flattening,
) -> Finished {
    flattening.stop_for(&mut kept).await;
    let result = once(&context, &order, async |object, path| {
        if !kept.paused.quiesced {
            return Err(HostError::Unquiesced);
        }
        let generation =
            kept.paused.generation.clone().ok_or_else(|| HostError::MemoryUnusable(resuming::none_is_kept(&kept)))?;
        let (shared, dir, to) = (context.shared.clone(), context.dir.clone(), path.to_owned());
        let copied = tokio::task::spawn_blocking(move || {
            let manifest = generation::manifest(&dir, &generation, &shared.signer)?;
            let from = generation::path(&dir, &generation);
            copy_state(&from.join(STATE), &to.join(STATE), &manifest)?;
            atoll_disk::copy_disk_lasting(&dir.join("cow.raw"), &to.join(DISK)).map_err(from_disk)?;
            Ok::<_, HostError>((manifest, from))
        });
        let (manifest, from) = copied.await.map_err(join_failed)??;
        let none = || HostError::Damaged("the manifest names no device state".into());
        let parts = Raw {
            platform: manifest.platform.clone(),
            state: manifest.parts.state.ok_or_else(none)?,
            diff: manifest.parts.memory_diff.filter(|_| kept.diff).map(|part| (from.join(DIFF_FILE), part.digest)),
            sources: kept.sources.clone(),
        };
        let bytes = finish(&context, &object, path, parts).await?;
        Ok((bytes, 0))
    })
    .await;
    let thawing = Thawing::none();
    Finished::Copied(CopyOutcome { alive: None, kept: Some(Box::new(kept)), result, thawing, ended: None })
}

/// Copies a device state, and looks at the copy: it is signed again, so nobody would see later that it was damaged before.
fn copy_state(from: &Path, to: &Path, manifest: &Manifest) -> Result<(), HostError> {
    atoll_disk::copy_disk_lasting(from, to).map_err(from_disk)?;
    let (digest, bytes) = digest_of(&open(to)?).map_err(from_keeper)?;
    let is = Part { bytes, digest: Digest(digest.0) };
    if manifest.parts.state == Some(is) {
        return Ok(());
    }
    Err(HostError::Damaged("the device state is not what the manifest says".into()))
}

/// Runs `fill` on a fresh object, which becomes the template if that ends well. One that is there already is answered.
async fn once(
    context: &Context,
    order: &MakeTemplate,
    fill: impl AsyncFnOnce(ObjectId, &Path) -> Result<(u64, u64), HostError>,
) -> Result<TemplateFacts, HostError> {
    let shared = &context.shared;
    let facts = |bytes, stood_still_micros| TemplateFacts {
        template: order.template.clone(),
        shape: context.spec.shape,
        bytes,
        stood_still_micros,
    };
    let template = Holder::Template { id: order.template.clone() };
    if let Some(id) = shared.objects.of(&template) {
        return Ok(facts(objects::allocated(&shared.objects.path(&id))?, 0));
    }
    if !context.spec.own.is_empty() {
        // Its kernel or image goes with it, and would be missing under every copy.
        let state = "started from files of its owner's, and a snapshot would outlive them".into();
        return Err(HostError::WrongState { state });
    }
    let permit = async {
        let permit = shared.pauses.acquire().await;
        permit.map_err(|_| stopping())
    };
    let _permit = context.or_cancelled(permit).await?;
    // What a limit's pause of the sandbox itself will need stays reserved beside it.
    admission::check_pause(shared.data.root(), context.spec.shape, false, shared.promised(None))?;
    let step = Holder::Step { id: order.template.clone() };
    let (shared, holder) = (Arc::clone(shared), step.clone());
    let made = tokio::task::spawn_blocking(move || shared.objects.make(holder));
    let (object, path) = made.await.map_err(join_failed)??;
    let filled = fill(object.clone(), &path).await;
    let shared = Arc::clone(&context.shared);
    let settled = tokio::task::spawn_blocking(move || {
        let held = filled.and_then(|figures| shared.objects.hold(&object, template).map(|()| figures));
        shared.objects.release(&step).map_err(|e| failed(&e))?;
        held
    });
    let (bytes, stood_still) = settled.await.map_err(join_failed)??;
    Ok(facts(bytes, stood_still))
}

/// Freezes, takes the snapshot and copies the disk while the VM stands still; answers for how many microseconds it did.
async fn take(
    context: &Context,
    alive: &mut Alive,
    object: &ObjectId,
    path: &Path,
    thawing: &mut Thawing,
) -> Result<(Sources, Snapshot, u64), HostError> {
    let sources = pausing::sources(context).await?;
    // Whoever takes the sandbox over from an Atoll that dies from here on must let it go on.
    context.journal(Entry::Copying { object: object.clone() }).await?;
    let vm = alive.vm();
    let agent = vmm::agent(&vm.sockets, context.token());
    let timeout_ms = u64::try_from(FREEZE.as_millis()).unwrap_or(u64::MAX);
    let request = PrepareRequest { sync: false, freeze: true, timeout_ms };
    let frozen = async {
        match timeout(FREEZE, agent.prepare_snapshot(&request)).await {
            Ok(Ok(prepared)) if prepared.frozen => Ok(()),
            Ok(Ok(_)) => Err(HostError::Unquiesced),
            _ => Err(HostError::AgentBusy),
        }
    };
    context.or_destroyed(frozen).await?;
    let to = path.to_owned();
    let files = tokio::task::spawn_blocking(move || SnapshotFiles::create(&to).map_err(from_client));
    let files = files.await.map_err(join_failed)??;
    let begun = Instant::now();
    let (mut stood_still, mut thawed) = (None, Ok(()));
    Step::Snapshot.before();
    let taking = vm.keeper.snapshot(files, Then::Stay);
    tokio::pin!(taking);
    let taken = loop {
        tokio::select! {
            // What the keeper said first is heard first: on a busy machine both are there at once.
            biased;
            event = alive.events.recv(), if stood_still.is_none() => match event {
                Some(Event::Captured) => {
                    copy_disk(context, path).await?;
                    vm.keeper.resume().await.map_err(from_client)?;
                    stood_still = Some(begun.elapsed());
                    thawed = going_on::thaw(context, &agent).await;
                }
                Some(_) => {}
                None => return Err(HostError::WrongState { state: "stopped".into() }),
            },
            taken = &mut taking => break taken.map_err(from_client)?,
            () = context.destroyed() => return Err(work::being_destroyed()),
        }
    };
    Step::Snapshot.after();
    match thawed {
        Ok(()) => context.journal(Entry::Repaired { protocol: None }).await?,
        // What was taken is whole all the same.
        Err(error) => {
            tracing::warn!(sandbox.id = %context.spec.id, %error, "an agent did not thaw user code; it is asked again");
            *thawing = Thawing::begin(context.clone(), vm.sockets.clone());
        }
    }
    let none = || HostError::Failed("the keeper did not say that it had read the memory".into());
    let stood_still = stood_still.ok_or_else(none)?;
    Ok((sources, taken, u64::try_from(stood_still.as_micros()).unwrap_or(u64::MAX)))
}

/// Copies the disk of a VM that stands still; it is made lasting when the VM has gone on ([`finish`]).
pub(super) async fn copy_disk(context: &Context, path: &Path) -> Result<(), HostError> {
    let (from, to) = (context.dir.join("cow.raw"), path.join(DISK));
    let copied = tokio::task::spawn_blocking(move || atoll_disk::copy_disk(&from, &to).map_err(from_disk));
    copied.await.map_err(join_failed)?.map(drop)
}

/// What an object is made of, before its memory is flat.
pub(super) struct Raw {
    pub(super) platform: Platform,
    pub(super) state: Part,
    pub(super) diff: Option<(std::path::PathBuf, Digest)>,
    pub(super) sources: Sources,
}

/// Flattens the memory, writes sources and manifest; everything is on disk when this answers the allocated bytes.
pub(super) async fn finish(context: &Context, object: &ObjectId, path: &Path, parts: Raw) -> Result<u64, HostError> {
    let (context, path, object) = (context.clone(), path.to_owned(), object.clone());
    let finished = tokio::task::spawn_blocking(move || {
        let (shared, shape, template) = (&context.shared, context.spec.shape, context.spec.template.clone());
        let memory = u64::from(shape.memory_mb) << 20;
        let go_on = || !context.is_destroyed();
        let base = crate::base::open(&shared.objects, &context.dir, &parts.sources.base)?;
        let digest = flat(&base, parts.diff.as_ref(), memory, &path.join(MEMORY), &go_on)?;
        // A running sandbox's diff lies in the object itself and is of no use any more.
        let _ = std::fs::remove_file(path.join(DIFF_FILE));
        open(&path.join(DISK))?.sync_all().map_err(|e| failed(&e))?;
        let (disk, bytes) = disk_digest_while(&path.join(DISK), &go_on).map_err(|error| match error {
            DiskError::Cancelled => work::being_destroyed(),
            error => from_disk(error),
        })?;
        crate::whole::note_disk(&path).map_err(|e| failed(&e))?;
        let sources = Sources { base: Base::Object { id: object.clone() }, ..parts.sources };
        let write = || {
            let text = serde_json::to_vec(&sources)?;
            crate::data_dir::replace(&path.join(SOURCES), &text, 0o600)
        };
        write().map_err(|e| failed(&e))?;
        let manifest = Manifest {
            format: FORMAT,
            id: object.0.clone(),
            created_at: crate::clock::now().wall,
            shape,
            template,
            platform: parts.platform,
            origin: sources.origin,
            parts: Parts {
                state: Some(parts.state),
                memory_base: Some(Part { bytes: memory, digest: Digest(digest.0) }),
                memory_diff: None,
                disk: Some(Part { bytes, digest: Digest(disk) }),
            },
            quiesced: true,
            copyable: true,
            key: shared.signer.id().to_owned(),
        };
        generation::seal(&path, &manifest, &shared.signer).map_err(|e| failed(&e))?;
        objects::allocated(&path)
    });
    // Awaited also when it is called off: its files are removed next.
    finished.await.map_err(join_failed)?
}

fn open(path: &Path) -> Result<File, HostError> {
    File::open(path).map_err(|e| failed(&e))
}

fn flat(
    base: &File,
    diff: Option<&(std::path::PathBuf, Digest)>,
    memory: u64,
    to: &Path,
    go_on: &dyn Fn() -> bool,
) -> Result<KeeperDigest, HostError> {
    let diff = diff.map(|(path, digest)| Ok::<_, HostError>((open(path)?, KeeperDigest(digest.0)))).transpose()?;
    let mut options = std::fs::OpenOptions::new();
    let out = options.read(true).write(true).create_new(true).mode(0o600).open(to).map_err(|e| failed(&e))?;
    let diff = diff.as_ref().map(|(file, digest)| (file, *digest));
    flatten_while(base, diff, memory, &out, go_on).map_err(|error| match error {
        KeeperError::CalledOff => work::being_destroyed(),
        error => from_keeper(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_made_flat_is_called_off_between_two_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let memory = 64 << 20;
        let base = dir.path().join("base");
        std::fs::write(&base, vec![1; 64 << 20]).unwrap();
        let base = File::open(&base).unwrap();
        let asked = std::cell::Cell::new(0);
        let once = || asked.replace(asked.get() + 1) == 0;
        let flattened = flat(&base, None, memory, &dir.path().join("called-off"), &once);
        assert!(matches!(flattened, Err(HostError::WrongState { .. })), "{flattened:?}");
        assert_eq!(asked.get(), 2, "it went on after it was called off");
        let whole = flat(&base, None, memory, &dir.path().join("whole"), &|| true).unwrap();
        assert!(whole == atoll_keeper::memory::digest_of(&base).unwrap().0);
    }
}
