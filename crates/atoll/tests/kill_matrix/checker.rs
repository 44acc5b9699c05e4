//! Whether everything that tells of sandboxes tells the same.
//!
//! How it works: what the database says runs is what must be there, each thing once: directory, journal without tombstone, keeper,
//! VMM, namespace, interface, control groups, slot, by the numbers and rules that were written down ([`super::wiring`]); of what is
//! paused the directory and what is kept ([`super::kept`]) and nothing else; and nothing else that bears the instance's name. Objects are those of goldens, templates and sandboxes ([`super::objects`]).
//! No call is open, no row pending, no file half written, each idempotency key stands for something that is there, and each end,
//! pause and resume has one row in the audit log. `remains` of the host agent reads the machine by itself, not by what Atoll believes.
//!
//! Deliberately absent: waiting. The caller asks again until it agrees or time is up.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use atoll_client::Client;
use atoll_domain::record::Sandbox;
use atoll_domain::{InstanceId, SandboxStatus, TeamId};
use atoll_store::{Store, StoredAudit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::case::Victim;
use super::{kept, objects, wiring};

pub(crate) type Ids = BTreeSet<String>;

/// The sandboxes that have a directory.
pub(crate) fn sandboxes(data: &Path) -> Ids {
    let entries = fs::read_dir(data.join("sandboxes")).map(|e| e.flatten().collect()).unwrap_or_else(|_| Vec::new());
    entries.into_iter().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Kills keeper or VMM of a sandbox; whether there was one.
pub(crate) fn kill_of(data: &Path, id: &str, victim: Victim) -> bool {
    let keepers = keepers(data);
    let Some(keeper) = keepers.iter().find(|(of, _)| of == id).map(|(_, pid)| *pid) else { return false };
    let pid = match victim {
        Victim::Keeper => Some(keeper),
        Victim::Vmm => vmm_of(keeper),
        Victim::Atoll => None,
    };
    pid.is_some_and(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok())
}

/// Keepers of this data directory, with their sandboxes; two of one sandbox are two.
fn keepers(data: &Path) -> Vec<(String, i32)> {
    let mut out = Vec::new();
    for (pid, words) in processes() {
        let dir = data.join("sandboxes");
        if let [_, flag, id, _, own] = words.as_slice()
            && flag == "--sandbox"
            && Path::new(own) == dir.join(id)
        {
            out.push((id.clone(), pid));
        }
    }
    out
}

fn vmm_of(keeper: i32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

fn processes() -> Vec<(i32, Vec<String>)> {
    let entries = fs::read_dir("/proc").map(|e| e.flatten().collect()).unwrap_or_else(|_| Vec::new());
    let read = |entry: &fs::DirEntry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let words = line.split(|b| *b == 0).filter(|word| !word.is_empty());
        Some((pid, words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()))
    };
    entries.iter().filter_map(read).collect()
}

/// Compares everything; the first difference is the error.
pub(crate) async fn compare(data: &Path, client: &Client) -> Result<(), String> {
    let store = Store::open_sqlite(&data.join("atoll.db")).await.map_err(|e| e.to_string())?;
    let compared = against(&store, data, client).await;
    store.close().await;
    compared
}

async fn against(store: &Store, data: &Path, client: &Client) -> Result<(), String> {
    let (team, host) = store.first_team_and_host().await.map_err(fault)?.ok_or("no first start")?;
    let open = store.open_operations().await.map_err(fault)?;
    same("open calls", &open.iter().map(|o| format!("{:?} of {}", o.kind, o.sandbox)).collect(), &Ids::new())?;
    let rows = store.sandboxes_on(&host).await.map_err(fault)?;
    let settled = [SandboxStatus::Running, SandboxStatus::Paused];
    let unsettled = rows.iter().filter(|row| !settled.contains(&row.status));
    same("unsettled rows", &unsettled.map(|row| format!("{} {}", row.id, row.status)).collect(), &Ids::new())?;
    let shown = client.sandboxes().await.map_err(|e| e.to_string())?;
    let said = shown.iter().map(|s| format!("{} {}", s.id, s.status)).collect();
    same("what the API lists", &said, &rows.iter().map(|row| format!("{} {}", row.id, row.status)).collect())?;
    let known: Ids = rows.iter().map(|row| row.id.to_string()).collect();
    same("directories", &sandboxes(data), &known)?;
    let mut rest = BTreeMap::new();
    for row in &rows {
        let said = kept::compare(&data.join("sandboxes").join(row.id.as_str()), row)?;
        rest.extend(kept::object(&said).map(|object| (row.id.to_string(), object)));
    }
    let running: Ids =
        rows.iter().filter(|row| row.status == SandboxStatus::Running).map(|row| row.id.to_string()).collect();
    let mut shown = Vec::new();
    for id in &running {
        shown.push(client.sandbox(id).await.map_err(|e| e.to_string())?);
    }
    machine(data, &running, &shown)?;
    same("half written files", &half_written(data)?, &Ids::new())?;
    keys(store, &known).await?;
    templates(store, &team, data, client, &rest).await?;
    audit(&store.audit(&team, 10_000).await.map_err(fault)?, &rows)
}

/// Keys of starts are of sandboxes that are there, those of creates of sandboxes that there were.
async fn keys(store: &Store, known: &Ids) -> Result<(), String> {
    for (place, kept) in store.kept_requests().await.map_err(fault)? {
        let (route, key) = (&place.route, &place.key);
        let stands = match route.strip_prefix("exec ") {
            Some(id) => known.contains(id),
            None => match kept.subject.parse() {
                Ok(id) => store.sandbox(&id).await.map_err(fault)?.is_some(),
                Err(_) => false,
            },
        };
        if !stands {
            return Err(format!("the key {key} of {route} stands for nothing: {kept:?}"));
        }
    }
    Ok(())
}

/// Files that were to take the place of others, anywhere below a directory. What goes away meanwhile is none.
fn half_written(dir: &Path) -> Result<Ids, String> {
    let mut found = Ids::new();
    let gone = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Ok(()),
        _ => Err(format!("{}: {error}", dir.display())),
    };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => return gone(error).map(|()| found),
    };
    for entry in entries {
        let entry = match entry.and_then(|entry| Ok((entry.path(), entry.file_type()?))) {
            Ok(entry) => entry,
            Err(error) => {
                gone(error)?;
                continue;
            }
        };
        let (path, kind) = entry;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.extension().is_some_and(|extension| extension == "tmp") || name.starts_with(".tmp-") {
            found.insert(path.display().to_string());
        } else if kind.is_dir() {
            found.extend(half_written(&path)?);
        }
    }
    Ok(found)
}

/// What the database lists, what the API lists, and the files.
async fn templates(
    store: &Store,
    team: &TeamId,
    data: &Path,
    client: &Client,
    rest: &BTreeMap<String, String>,
) -> Result<(), String> {
    let out = store.templates_on_the_way_out().await.map_err(fault)?;
    same("templates on the way out", &out.into_iter().map(|template| template.name).collect(), &Ids::new())?;
    let rows = store.templates(team, None).await.map_err(fault)?;
    let shown = client.snapshots(Some("snapshot")).await.map_err(|e| e.to_string())?;
    let listed = shown.into_iter().map(|template| template.name).collect();
    same("templates of the API", &listed, &rows.iter().map(|template| template.name.clone()).collect())?;
    objects::compare(data, &rows.into_iter().map(|template| template.id).collect(), rest)
}

/// What the audit log says of a sandbox.
#[derive(Debug, Default)]
struct Told {
    created: u64,
    ended: u64,
    paused: u64,
    resumed: u64,
}

/// One row of the log says how each ended; each life has a pause if there is a later one, and each later life a resume.
fn audit(log: &[StoredAudit], rows: &[Sandbox]) -> Result<(), String> {
    let mut told: BTreeMap<&str, Told> = BTreeMap::new();
    for row in log.iter().filter(|row| row.resource_type == "sandbox") {
        let of = told.entry(row.resource_id.as_deref().unwrap_or_default()).or_default();
        match row.action.as_str() {
            "create" => of.created += 1,
            "destroy" | "ended" | "create_failed" => of.ended += 1,
            "pause" => of.paused += 1,
            "resume" => of.resumed += 1,
            _ => {}
        }
    }
    for row in rows {
        let told = told.remove(row.id.as_str()).unwrap_or_default();
        let resumed = row.incarnation.0 - 1;
        let paused = resumed + u64::from(row.status == SandboxStatus::Paused);
        if (told.created, told.ended, told.paused, told.resumed) != (1, 0, paused, resumed) {
            return Err(format!("{} is {} in its life {}; by the log: {told:?}", row.id, row.status, row.incarnation));
        }
    }
    match told.iter().find(|(_, told)| (told.created, told.ended) != (1, 1)) {
        Some((id, told)) => Err(format!("{id} is over; by the log: {told:?}")),
        None => Ok(()),
    }
}

fn fault(error: atoll_store::StoreError) -> String {
    error.to_string()
}

/// What is on the machine.
fn machine(data: &Path, running: &Ids, shown: &[atoll_api::Sandbox]) -> Result<(), String> {
    let text = fs::read_to_string(data.join("instance.json")).map_err(|e| e.to_string())?;
    let file: serde_json::Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let instance = file["instance"].as_str().unwrap_or_default().to_owned();
    let id = InstanceId::try_from(instance.clone()).map_err(|e| e.to_string())?;
    each_once("keepers", keepers(data).into_iter().map(|(id, _)| id).collect(), running)?;
    each_once("VMMs", vmms(data, &instance), running)?;
    let remains = atoll_host::remains(&id, data, &[]);
    for (id, keeper) in keepers(data) {
        let shown = shown.iter().find(|sandbox| sandbox.id == id).ok_or_else(|| format!("{id} is not listed"))?;
        wiring::processes(&data.join("sandboxes").join(&id), shown, keeper, vmm_of(keeper))?;
    }
    same("control groups", &remains.cgroups.into_iter().collect(), running)?;
    let slots: Vec<(String, String)> =
        remains.slots.iter().filter_map(|s| s.split_once(' ').map(|(n, id)| (n.to_owned(), id.to_owned()))).collect();
    same("slots", &slots.iter().map(|(_, id)| id.clone()).collect(), running)?;
    if slots.len() != running.len() {
        return Err("a sandbox has two slots".into());
    }
    let mut network = Ids::new();
    for (slot, id) in &slots {
        let netns = format!("at-{instance}-{slot}");
        network.insert(format!("Netns(\"{netns}\")"));
        let internet = shown.iter().any(|s| s.id == *id && s.network == atoll_api::Network::Internet);
        wiring::sandbox_rules(&netns, if internet { "internet" } else { "none" })?;
        if internet {
            network.insert(format!("Interface(\"at{instance}.{slot}\")"));
        }
    }
    same("namespaces and interfaces", &remains.network.into_iter().collect(), &network)?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|e| e.to_string())?;
    let ours = mounts.lines().filter(|line| line.contains(&format!("/at-{instance}-")));
    let spaces: Vec<String> = ours.filter_map(|line| line.split_whitespace().nth(4).map(str::to_owned)).collect();
    // Each namespace's name, and the empty one's, is one mount.
    if spaces.len() != slots.len() + 1 {
        return Err(format!("{} namespaces are mounted for {} sandboxes: {spaces:?}", spaces.len(), slots.len()));
    }
    let inside = data.display().to_string();
    if let Some(line) = mounts.lines().find(|line| line.contains(&inside)) {
        return Err(format!("a mount is left: {line}"));
    }
    let tables = std::process::Command::new("nft").args(["list", "tables"]).output().map_err(|e| e.to_string())?;
    let tables = String::from_utf8_lossy(&tables.stdout).matches(&format!("atoll_{instance}")).count();
    if tables != 1 {
        return Err(format!("{tables} tables of the instance"));
    }
    wiring::instance_rules(&instance)
}

/// The sandboxes of the VMMs that have a directory here or run in a control group of the instance's; two of one sandbox are two.
fn vmms(data: &Path, instance: &str) -> Vec<String> {
    let known = sandboxes(data);
    let named = |words: &[String]| words.iter().skip_while(|w| *w != "-name").nth(1).cloned();
    let grouped = |pid: i32| {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        groups.contains(&format!("/atoll-{instance}/"))
    };
    let qemu = processes().into_iter().filter(|(_, words)| words.first().is_some_and(|w| w.contains("qemu-system")));
    let of = |(pid, words): (i32, Vec<String>)| named(&words).filter(|name| known.contains(name) || grouped(pid));
    qemu.filter_map(of).collect()
}

/// Each of the expected is there, and once.
fn each_once(what: &str, mut found: Vec<String>, expected: &Ids) -> Result<(), String> {
    same(what, &found.iter().cloned().collect(), expected)?;
    found.sort();
    match found.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("{what}: two of {}", pair[0])),
        None => Ok(()),
    }
}

/// Two sets are the same, or the error says what is too many and what is missing.
pub(crate) fn same(what: &str, found: &Ids, expected: &Ids) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    let more: Vec<_> = found.difference(expected).collect();
    let less: Vec<_> = expected.difference(found).collect();
    Err(format!("{what}: too many {more:?}, missing {less:?}"))
}
