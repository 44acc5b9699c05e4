//! What a sandbox's directory says and holds.
//!
//! How it works: the lines of its journal are read as they stand, by the words that are in them, and the files are compared with what they
//! come to: of what is kept neither less nor more may be there, of what runs nothing that was kept.
//!
//! Deliberately absent: Atoll's own reading of its journal, which is what is tried.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use atoll_domain::record::Sandbox;
use atoll_domain::ttl::Lifetime;
use serde_json::Value;

use super::checker::{Ids, same};

/// What is kept of a paused sandbox.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    /// None when its disk alone is.
    pub(crate) generation: Option<String>,
    /// Whether that has a diff to the base.
    pub(crate) diff: bool,
    base: Value,
}

/// What a journal comes to.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// While it is paused.
    pub(crate) kept: Option<Kept>,
    /// What its VM was started from last.
    started: Value,
    /// User code may stand still.
    stands_still: bool,
    buried: bool,
    /// Its keeper and VMM, as they were noted last.
    pub(crate) processes: Value,
    lifetime: Option<Lifetime>,
}

/// Reads a directory's journal.
pub(crate) fn read(dir: &Path) -> Result<Said, String> {
    let text = fs::read_to_string(dir.join("journal")).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut said = Said::default();
    for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let line: Value = serde_json::from_str(line).map_err(|e| format!("{}: {e}", dir.display()))?;
        take(&mut said, &line).map_err(|e| format!("{line}: {e}"))?;
    }
    Ok(said)
}

fn take(said: &mut Said, line: &Value) -> Result<(), serde_json::Error> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    match line["step"].as_str().unwrap_or_default() {
        "create" => said.lifetime = Some(serde_json::from_value(line["spec"]["lifetime"].clone())?),
        "lifetime" => said.lifetime = Some(serde_json::from_value(line.clone())?),
        "boot" => {
            said.started = line["sources"]["base"].clone();
            said.stands_still = true;
        }
        "running" => {
            said.kept = None;
            said.processes = line.clone();
        }
        "pausing" | "resuming" | "copying" => said.stands_still = true,
        "repaired" => said.stands_still = false,
        "paused" => {
            let (generation, diff) = (text(&line["paused"]["generation"]), line["diff"] == true);
            said.kept = Some(Kept { generation, diff, base: line["sources"]["base"].clone() });
        }
        "flattened" => {
            if let Some(kept) = &mut said.kept {
                kept.base = line["base"].clone();
                kept.diff = false;
            }
        }
        "memory_lost" => {
            if let Some(kept) = &mut said.kept {
                kept.generation = None;
            }
        }
        "tombstone" => said.buried = true,
        _ => {}
    }
    Ok(())
}

/// The object that the sandbox's memory rests on.
pub(crate) fn object(said: &Said) -> Option<String> {
    let base = match &said.kept {
        Some(kept) => kept.generation.as_ref().map(|_| &kept.base)?,
        None => &said.started,
    };
    (base["kind"] == "object").then(|| base["id"].as_str().unwrap_or_default().to_owned())
}

/// Compares a directory with its record.
pub(crate) fn compare(dir: &Path, row: &Sandbox) -> Result<Said, String> {
    let said = read(dir)?;
    let is_paused = row.status == atoll_domain::SandboxStatus::Paused;
    if said.buried {
        return Err(format!("{} has a tombstone", row.id));
    }
    if said.kept.is_some() != is_paused {
        return Err(format!("{} is {} and its journal says {:?}", row.id, row.status, said.kept));
    }
    if said.stands_still && !is_paused {
        return Err(format!("{} runs and its user code may stand still", row.id));
    }
    if said.lifetime != Some(row.lifetime) {
        return Err(format!("{}: its limits are {:?}, and {:?} on its host", row.id, row.lifetime, said.lifetime));
    }
    files(dir, &said).map_err(|why| format!("{}: {why}", row.id))?;
    Ok(said)
}

fn files(dir: &Path, said: &Said) -> Result<(), String> {
    if !dir.join("cow.raw").is_file() {
        return Err("no disk".into());
    }
    let (generation, base) = match &said.kept {
        Some(kept) => (kept.generation.as_deref(), kept.generation.as_ref().map_or(&Value::Null, |_| &kept.base)),
        None => (None, &said.started),
    };
    let generations = dir.join("generations");
    same("generations", &names(&generations), &generation.into_iter().map(str::to_owned).collect())?;
    if let (Some(generation), Some(kept)) = (generation, &said.kept) {
        let parts = ["manifest.json", "state"].into_iter().chain(kept.diff.then_some("diff"));
        same("parts of what is kept", &names(&generations.join(generation)), &parts.map(str::to_owned).collect())?;
    }
    let is_base = |name: &String| name == "memory.raw" || name.starts_with("base-");
    let expected: Ids = match base["kind"].as_str() {
        Some("own") => base["file"].as_str().map(str::to_owned).into_iter().collect(),
        Some("empty") => Ids::from(["memory.raw".to_owned()]),
        _ => Ids::new(),
    };
    same("memory bases", &names(dir).into_iter().filter(is_base).collect(), &expected)
}

/// The names in a directory, which may not be there.
pub(crate) fn names(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).map(|e| e.flatten().collect()).unwrap_or_else(|_| Vec::new());
    entries.into_iter().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
