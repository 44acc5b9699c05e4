//! Whether objects, templates and who rests on them agree.
//!
//! How it works: the ledger is what `objects/journal` comes to by the domain's rule. Every directory is an object of it, whole, and every
//! holder is somebody who is there: a golden, a template that the database lists, a sandbox whose memory is mapped from it.
//!
//! Deliberately absent: what the files hold; digests are checked by every restore.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use atoll_domain::objects::{Entry, Holder, Ledger};

use super::checker::{Ids, same};
use super::kept::names;

/// What every object has.
const PARTS: [&str; 5] = ["disk.raw", "manifest.json", "memory.raw", "sources.json", "state"];

/// The ledger of a data directory; one without objects has an empty one.
pub(crate) fn ledger(data: &Path) -> Result<Ledger, String> {
    let text = fs::read_to_string(data.join("objects/journal")).unwrap_or_default();
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let entries: Result<Vec<Entry>, _> = lines.map(serde_json::from_str).collect();
    Ok(Ledger::read(entries.map_err(|e| format!("the objects' journal: {e}"))?))
}

/// Whether a golden is kept, and nothing is being made.
pub(crate) fn has_golden(data: &Path) -> Result<bool, String> {
    let holders = ledger(data)?.everybody();
    let golden = holders.iter().any(|holder| matches!(holder, Holder::Golden { .. }));
    Ok(golden && !holders.iter().any(|holder| matches!(holder, Holder::Step { .. })))
}

/// Compares; `rest` says on which object each sandbox's memory rests.
pub(crate) fn compare(data: &Path, templates: &Ids, rest: &BTreeMap<String, String>) -> Result<(), String> {
    let ledger = ledger(data)?;
    let doomed = ledger.doomed();
    if !doomed.is_empty() {
        return Err(format!("objects are to be removed: {doomed:?}"));
    }
    let root = data.join("objects");
    let mut objects = Ids::new();
    let mut held_by_templates = Ids::new();
    let mut resting: BTreeMap<String, String> = BTreeMap::new();
    for holder in ledger.everybody() {
        for object in ledger.of(&holder) {
            objects.insert(object.0.clone());
            match &holder {
                Holder::Golden { .. } => {}
                Holder::Template { id } => drop(held_by_templates.insert(id.clone())),
                Holder::Running { sandbox, .. } => {
                    if resting.insert(sandbox.to_string(), object.0.clone()).is_some() {
                        return Err(format!("{sandbox} rests on two objects"));
                    }
                }
                Holder::Generation { .. } | Holder::Step { .. } => {
                    return Err(format!("{} is held by {holder:?}", object.0));
                }
            }
        }
    }
    same("templates with files", &held_by_templates, templates)?;
    if resting != *rest {
        return Err(format!("on objects rest {resting:?}, and should {rest:?}"));
    }
    let directories = names(&root).into_iter().filter(|name| root.join(name).is_dir()).collect();
    same("objects", &directories, &objects)?;
    for object in &objects {
        let mut parts = names(&root.join(object));
        // When a golden was used last.
        parts.remove("used");
        // How its disk looked when it was read last.
        parts.remove("disk.look");
        same("parts of an object", &parts, &PARTS.iter().map(|part| (*part).to_owned()).collect())?;
    }
    Ok(())
}
