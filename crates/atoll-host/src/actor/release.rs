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

/// Removes a sandbox's directory, the journal last: as long as anything is there, so is what says what it was. What is gone already,
/// because a keeper that was just killed or somebody else took it away, is no error.
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
        let path = entry.path();
        let is_dir = match entry.file_type() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            other => other?.is_dir(),
        };
        gone(if is_dir { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) })?;
    }
    gone(std::fs::remove_dir_all(dir))
}

fn gone(removed: std::io::Result<()>) -> std::io::Result<()> {
    match removed {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The last use of a sandbox is written as one file that takes the place of another, and so is its spec.
    #[test]
    fn a_file_that_is_replaced_while_the_directory_goes_keeps_nothing_from_going() {
        let root = tempfile::tempdir().unwrap();
        for n in 0..300 {
            let dir = root.path().join(n.to_string());
            std::fs::create_dir(&dir).unwrap();
            for name in ["cow.raw", "used", "journal"] {
                std::fs::write(dir.join(name), name).unwrap();
            }
            let unfinished = dir.join("used.tmp");
            std::fs::write(&unfinished, "1").unwrap();
            let (go, used) = (std::sync::Barrier::new(2), dir.join("used"));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    go.wait();
                    // It may have been removed before.
                    let _ = std::fs::rename(&unfinished, &used);
                });
                go.wait();
                remove_directory(&dir).unwrap();
            });
            assert!(!dir.exists());
        }
    }
}
