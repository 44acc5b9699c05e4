//! Giving everything back.
//!
//! How it works: a tombstone in the journal first, so that a crash in the middle goes on here at the next start; then the keeper (its
//! VMM dies with it), the network, the control groups (whatever is left in them is killed), the directory, and the slot last,
//! because its number names all of that. Every step may find its work done already.
//!
//! Deliberately absent: mercy. What a guest wants to keep it wrote to its disk before.

use std::time::Duration;

use atoll_domain::host::HostError;
use tokio::time::timeout;

use super::boot::Alive;
use super::work::{Context, Finished};
use crate::error::{failed, from_keeper, from_net, join_failed};
use crate::journal::{Entry, Journal};

const KEEPER_END: Duration = Duration::from_secs(3);

pub(super) async fn run(context: Context, alive: Option<Alive>, reason: String) -> Finished {
    Finished::Released(release(&context, alive, reason).await)
}

async fn release(context: &Context, alive: Option<Alive>, reason: String) -> Result<(), HostError> {
    let dir = context.dir.clone();
    let noted = tokio::task::spawn_blocking(move || match Journal::open(&dir) {
        Ok(mut journal) => journal.write(&Entry::Tombstone { reason }),
        // It never came to a directory.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    });
    noted.await.map_err(join_failed)?.map_err(|e| failed(&e))?;
    if let Some(mut alive) = alive {
        // A keeper that is gone or silent is killed with its group below.
        let _ = alive.keeper.exit().await;
        if timeout(KEEPER_END, alive.process.wait()).await.is_err() {
            let _ = alive.process.kill().await;
        }
        alive.connection.abort();
        // Aborted or ended; either way it is over.
        let _ = alive.connection.await;
    }
    let (shared, spec) = (context.shared.clone(), context.spec.clone());
    let removed = tokio::task::spawn_blocking(move || remove(&shared, &spec));
    removed.await.map_err(join_failed)?
}

/// Removes everything that bears the sandbox's name; blocks.
pub(crate) fn remove(shared: &crate::agent::Shared, spec: &atoll_domain::host::SandboxSpec) -> Result<(), HostError> {
    let id = &spec.id;
    atoll_keeper::cgroup::remove(&shared.net.instance, id).map_err(from_keeper)?;
    if let Some(plan) = shared.existing_plan(spec).map_err(from_net)? {
        atoll_net::remove(&plan).map_err(from_net)?;
    }
    let dir = shared.data.sandboxes().join(id.as_str());
    match std::fs::remove_dir_all(&dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(&error)),
        _ => {}
    }
    shared.slots.release(&shared.net.instance, id).map_err(from_net)
}
