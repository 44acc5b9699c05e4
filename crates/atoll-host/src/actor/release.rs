//! Giving everything back.
//!
//! How it works: a tombstone in the journal first, so that a crash in the middle goes on here at the next start; then whatever still writes
//! into the directory is stopped, and the keeper (its VMM dies with it), the network, the control groups (whatever is left in them is killed), the directory, and the slot last,
//! because its number names all of that. Every step may find its work done already.
//!
//! Deliberately absent: mercy. What a guest wants to keep it wrote to its disk before.

use std::path::Path;
use std::time::Duration;

use atoll_domain::host::{HostError, HostEventKind, SandboxSpec};
use atoll_domain::{Incarnation, SandboxId};
use tokio::time::timeout;

use super::flattening::Flattening;
use super::vmm::Alive;
use super::work::{Context, Finished};
use crate::error::{failed, from_keeper, from_net, join_failed};
use crate::history::History;
use crate::journal::{self, Entry, Journal};
use crate::shared::Shared;
use crate::{Step, keepers};

/// A keeper answers at once, or hangs.
const KEEPER_ANSWER: Duration = Duration::from_secs(1);
const KEEPER_END: Duration = Duration::from_secs(3);

pub(super) async fn run(context: Context, alive: Option<Alive>, flattening: Flattening, why: Why) -> Finished {
    Finished::Released(release(&context, alive, flattening, why).await)
}

/// Why a sandbox is given back, for a tombstone that is not there yet.
pub(super) struct Why {
    pub(super) reason: String,
    /// Whether it ended by itself, so that the event stream tells of it.
    pub(super) tell: bool,
}

async fn release(
    context: &Context,
    alive: Option<Alive>,
    mut flattening: Flattening,
    why: Why,
) -> Result<(), HostError> {
    let (shared, dir) = (context.shared.clone(), context.dir.clone());
    let (id, incarnation) = (context.spec.id.clone(), context.call.incarnation);
    let noted = tokio::task::spawn_blocking(move || bury(&shared, &dir, &id, incarnation, why));
    noted.await.map_err(join_failed)?.map_err(|e| failed(&e))?;
    // What was ready before goes with the rest.
    flattening.stop().await;
    if let Some(alive) = alive {
        end_keeper(alive).await;
    }
    let (shared, spec) = (context.shared.clone(), context.spec.clone());
    let removed = tokio::task::spawn_blocking(move || remove(&shared, &spec));
    removed.await.map_err(join_failed)?
}

/// Ends a keeper, and its VMM with it; one that is gone or silent is killed, and what is left of it goes with its group.
pub(super) async fn end_keeper(mut alive: Alive) {
    Step::EndKeeper.before();
    // Gone or silent is seen by its process.
    let _ = timeout(KEEPER_ANSWER, alive.keeper.exit()).await;
    if timeout(KEEPER_END, alive.process.ended()).await.is_err() {
        alive.process.kill();
    }
    Step::EndKeeper.after();
    alive.connection.abort();
    // Aborted or ended; either way it is over.
    let _ = alive.connection.await;
}

/// Writes the tombstone, and tells the end if it is to be told and was not.
fn bury(shared: &Shared, dir: &Path, id: &SandboxId, incarnation: Incarnation, why: Why) -> std::io::Result<()> {
    let history = History::read(dir)?;
    if history.created().is_none() {
        // It never came to a directory, or was all but removed before.
        return Ok(());
    }
    let (reason, tell) = match history.tombstone() {
        Some((reason, tell)) => (reason.to_owned(), tell),
        None => {
            let entry = Entry::Tombstone { reason: why.reason.clone(), tell: why.tell };
            Journal::open(dir)?.write(&entry)?;
            (why.reason, why.tell)
        }
    };
    if tell && !history.end_told() {
        shared.tell_blocking(dir, id, incarnation, HostEventKind::Ended { reason })?;
    }
    Ok(())
}

/// Removes what only a VM needs: keepers that are left, control groups, network; blocks. Each may be gone already.
pub(super) fn remove_vm(shared: &Shared, spec: &SandboxSpec) -> Result<(), HostError> {
    let id = &spec.id;
    let dir = shared.data.sandboxes().join(id.as_str());
    // One that had not joined its group yet when its Atoll died is in none.
    keepers::kill_of(&dir);
    Step::RemoveGroups.before();
    atoll_keeper::cgroup::remove(&shared.net.instance, id).map_err(from_keeper)?;
    Step::RemoveGroups.after();
    if let Some(plan) = shared.existing_plan(spec).map_err(from_net)? {
        Step::RemoveNetwork.before();
        atoll_net::remove(&plan).map_err(from_net)?;
        Step::RemoveNetwork.after();
    }
    Ok(())
}

/// The same of a sandbox that stays without a VM; its number, which named all of that, is given back, too.
pub(super) fn give_vm_back(shared: &Shared, spec: &SandboxSpec) -> Result<(), HostError> {
    remove_vm(shared, spec)?;
    release_slot(shared, &spec.id)
}

fn release_slot(shared: &Shared, id: &SandboxId) -> Result<(), HostError> {
    Step::SlotRelease.before();
    shared.slots.release(&shared.net.instance, id).map_err(from_net)?;
    Step::SlotRelease.after();
    Ok(())
}

/// Removes everything that bears the sandbox's name; blocks.
pub(crate) fn remove(shared: &Shared, spec: &SandboxSpec) -> Result<(), HostError> {
    remove_vm(shared, spec)?;
    let id = &spec.id;
    let dir = shared.data.sandboxes().join(id.as_str());
    shared.objects.release(&crate::shared::rests(id)).map_err(|e| failed(&e))?;
    Step::RemoveDirectory.before();
    remove_directory(&dir).map_err(|e| failed(&e))?;
    Step::RemoveDirectory.after();
    release_slot(shared, id)
}

/// Removes a sandbox's directory, the journal last: as long as anything is there, so is what says what it was.
pub(crate) fn remove_directory(dir: &Path) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name() == journal::FILE {
            continue;
        }
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    std::fs::remove_dir_all(dir)
}
