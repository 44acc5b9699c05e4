//! What an earlier Atoll left on this data directory.
//!
//! How it works: every directory under `sandboxes/` is read by its journal. A process is only ever killed when boot id and start time
//! say that it is the one that was written down; the control groups are the backstop. What is found is ended, given back, and
//! told as an event, so that the control plane marks the row. Namespaces, interfaces and groups that bear the instance's
//! name without a directory are removed too.
//!
//! Deliberately absent: adopting what still runs.

use std::fs;
use std::path::Path;

use atoll_domain::host::HostEventKind;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::actor::release::remove;
use crate::agent::Shared;
use crate::journal::{Entry, Processes, boot_id, read};

/// Ends and removes everything of this instance; blocks. What cannot be removed is logged and tried again at the next start.
pub(crate) fn run(shared: &Shared) {
    let entries = fs::read_dir(shared.data.sandboxes()).map(|e| e.flatten().collect()).unwrap_or_else(|_| Vec::new());
    for entry in entries {
        if let Err(error) = recover(shared, &entry.path()) {
            tracing::error!(directory = %entry.path().display(), %error, "what an earlier Atoll left could not be removed");
        }
    }
    sweep(shared);
}

fn recover(shared: &Shared, dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let entries = read(dir).unwrap_or_default();
    let Some(Entry::Create { call, spec }) = entries.first() else {
        // Made, but nothing was written into it: nothing else exists yet.
        return Ok(fs::remove_dir_all(dir)?);
    };
    tracing::info!(sandbox.id = %spec.id, "ending a sandbox that an earlier Atoll left");
    for entry in &entries {
        if let Entry::Running(processes) = entry {
            end(processes);
        }
    }
    let tombstone = entries.iter().any(|entry| matches!(entry, Entry::Tombstone { .. }));
    if !tombstone {
        let reason = "Atoll ended without stopping it".to_owned();
        shared.note(&spec.id, call.incarnation, HostEventKind::Ended { reason });
    }
    Ok(remove(shared, spec)?)
}

/// Kills the keeper's VMM if it is still the process that was written down; the keeper ends with its control group.
fn end(processes: &Processes) {
    if processes.boot_id != boot_id() {
        return;
    }
    let stat = fs::read_to_string(format!("/proc/{}/stat", processes.vmm_pid)).unwrap_or_default();
    let start: Option<u64> = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(19)?.parse().ok());
    if start == Some(processes.vmm_start) {
        let pid = i32::try_from(processes.vmm_pid).unwrap_or(i32::MAX);
        // Gone meanwhile is what is wanted.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Removes what bears the instance's name and no directory knows.
fn sweep(shared: &Shared) {
    let known: Vec<String> = fs::read_dir(shared.data.sandboxes())
        .map(|entries| entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
        .unwrap_or_default();
    let instance = &shared.net.instance;
    for id in atoll_keeper::cgroup::list(instance) {
        if !known.contains(&id.to_string())
            && let Err(error) = atoll_keeper::cgroup::remove(instance, &id)
        {
            tracing::error!(sandbox.id = %id, %error, "a control group could not be removed");
        }
    }
    if !known.is_empty() {
        return;
    }
    for leftover in atoll_net::leftovers(&shared.net) {
        if let Err(error) = atoll_net::remove_leftover(&leftover) {
            tracing::error!(?leftover, %error, "a leftover could not be removed");
        }
    }
    for (_, id) in shared.slots.of_instance(instance).unwrap_or_default() {
        if let Err(error) = shared.slots.release(instance, &id) {
            tracing::error!(sandbox.id = %id, %error, "a slot could not be given back");
        }
    }
}
