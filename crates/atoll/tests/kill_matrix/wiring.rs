//! Whether what runs is what was written down, and filtered as it was at first.
//!
//! How it works: the processes that the journal and the API name are those of the sandbox, by number and start. The nft rules of an instance,
//! and those of a sandbox's namespace by the network it asked for, are the ones that this process saw when it first looked: of a world
//! with a golden before anybody died there. Counters and what sets hold at the moment are left out.
//!
//! Deliberately absent: what the rules say; that is drift-tested and attacked elsewhere.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use super::kept;

/// The rules that were seen first, by what they are of.
static FIRST: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());

/// The rules of the instance on the host.
pub(crate) fn instance_rules(instance: &str) -> Result<(), String> {
    let table = format!("atoll_{instance}");
    as_at_first(
        &format!("the rules of {instance}"),
        Command::new("nft").args(["-s", "-t", "list", "table", "inet", &table]),
    )
}

/// The rules of a sandbox's namespace.
pub(crate) fn sandbox_rules(netns: &str, network: &str) -> Result<(), String> {
    let words = ["netns", "exec", netns, "nft", "-s", "-t", "list", "ruleset"];
    as_at_first(&format!("the rules of network {network}"), Command::new("ip").args(words))
        .map_err(|why| format!("{netns}: {why}"))
}

fn as_at_first(what: &str, list: &mut Command) -> Result<(), String> {
    let listed = list.output().map_err(|e| format!("{what}: {e}"))?;
    let rules = String::from_utf8_lossy(&listed.stdout).into_owned();
    if !listed.status.success() || !rules.contains("chain") {
        return Err(format!("{what}: {rules}{}", String::from_utf8_lossy(&listed.stderr)));
    }
    let mut first = FIRST.lock().map_err(|e| e.to_string())?;
    let first = first.entry(what.to_owned()).or_insert_with(|| rules.clone());
    if *first == rules { Ok(()) } else { Err(format!("{what} are\n{rules}and were\n{first}")) }
}

/// The processes of a sandbox are those that its journal and the API name.
pub(crate) fn processes(dir: &Path, shown: &atoll_api::Sandbox, keeper: i32, vmm: Option<i32>) -> Result<(), String> {
    let found = (u32::try_from(keeper).ok(), vmm.and_then(|pid| u32::try_from(pid).ok()));
    let said = shown.host.as_ref().map_or((None, None), |host| (host.keeper_pid, host.vmm_pid));
    if found != said {
        return Err(format!("{}: keeper and VMM are {found:?}, the API names {said:?}", shown.id));
    }
    let written = kept::read(dir)?.processes;
    let number = |name: &str| written[name].as_u64().and_then(|n| u32::try_from(n).ok());
    let starts = |name: &str| written[name].as_u64();
    if found != (number("keeper_pid"), number("vmm_pid"))
        || (start_of(found.0), start_of(found.1)) != (starts("keeper_start"), starts("vmm_start"))
    {
        return Err(format!("{}: keeper and VMM are {found:?}, the journal names {written}", shown.id));
    }
    Ok(())
}

/// Clock ticks since boot at a process's start.
fn start_of(pid: Option<u32>) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{}/stat", pid?)).ok()?;
    text.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}
