//! What an earlier Atoll left on this data directory.
//!
//! How it works: every directory under `sandboxes/` is read by its journal, and `atoll_domain::recovery` says what becomes of it:
//! its actor claims the keeper, or gives everything back. An event that stands in a journal and not in the stream is told
//! first, so that each is told once. A VM that may run has its slot claimed again, should the claims have been wiped. Namespaces,
//! interfaces, slots and groups that bear the instance's name and belong to no directory are removed.
//!
//! A sandbox of a newer Atoll, or one whose journal cannot be read, is left alone, and everybody who asks for it is told so.
//!
//! Deliberately absent: killing anything on a guess. A keeper ends with its sandbox's release, by its group or its command line.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use atoll_domain::SandboxId;
use atoll_domain::actor::Origin;
use atoll_domain::host::{Call, SandboxSpec};
use atoll_domain::recovery::{Fate, fate};
use atoll_domain::ttl::Limits;
use atoll_net::{Leftover, Slot};

use crate::actor::release::remove_directory;
use crate::error::StartError;
use crate::history::History;
use crate::journal::{Journal, Kept};
use crate::shared::Shared;

/// A sandbox that was found.
pub(crate) struct Found {
    pub(crate) call: Call,
    pub(crate) spec: SandboxSpec,
    pub(crate) limits: Limits,
    pub(crate) origin: Origin,
    /// Why it is given back, if its journal does not say.
    pub(crate) reason: Option<&'static str>,
    /// What is kept of a paused one.
    pub(crate) kept: Option<Kept>,
}

/// Whether any sandbox is left on the data directory.
pub(crate) fn has_sandboxes(shared: &Shared) -> bool {
    // What cannot be seen is taken for there.
    !matches!(directories(shared), Ok(found) if found.is_empty())
}

/// What the directories hold.
#[derive(Default)]
pub(crate) struct Survey {
    pub(crate) found: Vec<Found>,
    /// Sandboxes whose journals cannot be read, so that nobody knows what they are.
    pub(crate) unreadable: HashSet<SandboxId>,
}

/// Reads every directory and removes what belongs to none; blocks.
///
/// # Errors
/// When the directories cannot be listed: then nobody knows what belongs to none.
pub(crate) fn survey(shared: &Shared) -> Result<Survey, StartError> {
    let (mut read, mut unreadable) = (Vec::new(), HashSet::new());
    let directories = directories(shared)?;
    for dir in directories.iter().cloned() {
        match Journal::mend(&dir).and_then(|()| History::read(&dir)) {
            Ok(history) if !history.foreign || history.created().is_some() => read.push((dir, history)),
            outcome => {
                let why =
                    outcome.err().map_or_else(|| "a newer Atoll wrote its first line".to_owned(), |e| e.to_string());
                tracing::error!(directory = %dir.display(), why, "a journal cannot be read; its sandbox is left alone");
                unreadable.extend(dir.file_name().and_then(|name| name.to_str()?.parse().ok()));
            }
        }
    }
    // In the order of their numbers: the stream takes none that is lower than its last.
    let mut told: Vec<_> = read.iter().flat_map(|(_, history)| history.told()).collect();
    told.sort_by_key(|event| event.seq);
    for event in told {
        match shared.restore_event(event) {
            Ok(false) => {}
            Ok(true) => tracing::info!(sandbox.id = %event.sandbox, "told an event that a crash had kept back"),
            Err(error) => tracing::error!(sandbox.id = %event.sandbox, %error, "an event could not be written down"),
        }
    }
    let unread = directories.iter().filter(|dir| !read.iter().any(|(known, _)| known == *dir)).cloned();
    let may_run = read.iter().filter(|(_, history)| may_run(history)).map(|(dir, _)| dir.clone());
    let in_use: HashSet<Slot> = may_run.chain(unread).filter_map(|dir| claim_again(shared, &dir)).collect();
    let found = read.into_iter().filter_map(|(dir, history)| judge(&dir, &history)).collect();
    // Read again: an empty directory that was discarded keeps no number, group or network.
    sweep(shared, &self::directories(shared)?, in_use);
    Ok(Survey { found, unreadable })
}

/// All of them, or an error: one that is overlooked would lose its groups and its network.
fn directories(shared: &Shared) -> Result<Vec<PathBuf>, StartError> {
    let root = shared.data.sandboxes();
    let list = || -> std::io::Result<Vec<PathBuf>> { fs::read_dir(&root)?.map(|entry| Ok(entry?.path())).collect() };
    list().map_err(StartError::file("read", &root))
}

fn judge(dir: &Path, history: &History) -> Option<Found> {
    let (origin, reason) = match fate(history.traces()) {
        Fate::LeaveAlone => {
            tracing::error!(directory = %dir.display(), "a newer Atoll wrote this journal; its sandbox is left running");
            (Origin::Foreign, Some("kept by a newer Atoll, which wrote its journal; start that one to use it"))
        }
        Fate::Discard => {
            if let Err(error) = remove_directory(dir) {
                tracing::error!(directory = %dir.display(), %error, "an empty directory could not be removed");
            }
            return None;
        }
        Fate::Adopt => (Origin::Running, None),
        Fate::KeepPaused => (Origin::Paused, None),
        Fate::GoOn => (Origin::Remains, None),
        Fate::HalfMade => (Origin::Remains, Some("Atoll ended while the sandbox was being made")),
        Fate::Rebooted => (Origin::Remains, Some("the machine was restarted")),
    };
    let (_, spec) = history.created()?;
    let limits = history.limits()?;
    let spec = SandboxSpec { lifetime: limits.lifetime, ..spec.clone() };
    Some(Found { call: history.call()?, spec, limits, origin, reason, kept: history.paused() })
}

/// Whether its VM may be running: then its number is its own, whatever became of the claim.
fn may_run(history: &History) -> bool {
    matches!(fate(history.traces()), Fate::Adopt | Fate::LeaveAlone)
}

/// Claims the number again that a sandbox's keeper was started with; it is in use, whether or not that succeeds.
fn claim_again(shared: &Shared, dir: &Path) -> Option<Slot> {
    let (id, slot) = (dir.file_name()?.to_str()?.parse().ok()?, slot_of_keeper(dir)?);
    if let Err(error) = shared.slots.claim_again(&shared.net.instance, &id, shared.net.pool, slot) {
        tracing::error!(sandbox.id = %id, slot = slot.0, %error, "a sandbox's slot could not be claimed again");
    }
    Some(slot)
}

/// The number that a keeper was started with. Of its spec, which another version may have written, only the uid is read.
pub(crate) fn slot_of_keeper(dir: &Path) -> Option<Slot> {
    let spec: serde_json::Value = serde_json::from_slice(&fs::read(dir.join(atoll_keeper::spec::FILE)).ok()?).ok()?;
    Slot::of_uid(u32::try_from(spec["jail"]["uid"].as_u64()?).ok()?)
}

/// Removes what bears the instance's name and belongs to no directory, and to none of the numbers that are in use.
fn sweep(shared: &Shared, directories: &[PathBuf], in_use: HashSet<Slot>) {
    let names = directories.iter().filter_map(|dir| dir.file_name()?.to_str()?.parse().ok());
    let known: HashSet<SandboxId> = names.collect();
    let instance = &shared.net.instance;
    for id in atoll_keeper::cgroup::list(instance).into_iter().filter(|id| !known.contains(id)) {
        if let Err(error) = atoll_keeper::cgroup::remove(instance, &id) {
            tracing::error!(sandbox.id = %id, %error, "a control group could not be removed");
        }
    }
    let slots = match shared.slots.of_instance(instance) {
        Ok(slots) => slots,
        Err(error) => {
            // A running VM's network looks like a leftover to who does not know its slot.
            tracing::error!(%error, "the slots cannot be read; what a crash left of networks stays until the next start");
            return;
        }
    };
    let (kept, lost): (Vec<_>, Vec<_>) = slots.into_iter().partition(|(_, id)| known.contains(id));
    let kept: HashSet<Slot> = kept.into_iter().map(|(slot, _)| slot).chain(in_use).collect();
    for leftover in atoll_net::leftovers(&shared.net) {
        if !slot_of(shared, &leftover).is_some_and(|slot| kept.contains(&slot))
            && let Err(error) = atoll_net::remove_leftover(&leftover)
        {
            tracing::error!(?leftover, %error, "a leftover could not be removed");
        }
    }
    // Last, because the number names the rest.
    for (_, id) in lost {
        if let Err(error) = shared.slots.release(instance, &id) {
            tracing::error!(sandbox.id = %id, %error, "a slot could not be given back");
        }
    }
}

/// The slot in a name.
fn slot_of(shared: &Shared, leftover: &Leftover) -> Option<Slot> {
    let (name, prefix) = match leftover {
        Leftover::Netns(name) => (name, shared.net.netns_prefix()),
        Leftover::Interface(name) => (name, shared.net.interface_prefix()),
    };
    name.strip_prefix(&prefix)?.parse().ok().map(Slot)
}
