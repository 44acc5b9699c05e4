//! Which immutable files on a host are still needed.
//!
//! How it works: bases and disks are objects; whoever rests on one holds a reference (a golden, a template, a generation of a sandbox,
//! a running VM, a step under way). What happens is a journal of [`Entry`]s, each on disk before the step that it announces; a
//! [`Ledger`] is what a journal comes to. An object is announced before its files are made, and goes with its last reference:
//! first `Doomed` is written, then the files are removed, then `Gone`. Its last holder keeps its reference until then: as long as
//! the files cannot be removed it has something to let go of, and letting go again tries again. A doomed object takes no new
//! reference, so nothing can come to rest on files that are being removed; after a crash the next start finishes every removal, and
//! drops the references of holders that are not there any more.
//!
//! Deliberately absent: files, and who holds what: [`Ledger::settle`] is told which holders live.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{Incarnation, SandboxId};

/// An object's name, that of its directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ObjectId(pub String);

/// Who rests on an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Holder {
    /// A golden, by the name of its directory.
    Golden {
        /// The name.
        name: String,
    },
    /// A snapshot template, by id.
    Template {
        /// The id.
        id: String,
    },
    /// A generation of a sandbox that is paused, or was.
    Generation {
        /// The sandbox.
        sandbox: SandboxId,
        /// The generation.
        id: String,
    },
    /// A VM that maps it.
    Running {
        /// The sandbox.
        sandbox: SandboxId,
        /// Which life of it.
        incarnation: Incarnation,
    },
    /// A step under way that will hand its references on; never alive after a restart.
    Step {
        /// Which.
        id: String,
    },
}

/// A line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Entry {
    /// Its files are about to be made, for this holder.
    Made {
        /// The object.
        object: ObjectId,
        /// Its first holder.
        holder: Holder,
    },
    /// One more rests on it.
    Held {
        /// The object.
        object: ObjectId,
        /// Who.
        holder: Holder,
    },
    /// One rests on it no more.
    Dropped {
        /// The object.
        object: ObjectId,
        /// Who.
        holder: Holder,
    },
    /// Its files are about to be removed.
    Doomed {
        /// The object.
        object: ObjectId,
    },
    /// They are.
    Gone {
        /// The object.
        object: ObjectId,
    },
}

/// Why a reference is not given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It is not there, or is being removed.
    #[error("object `{0}` is not there any more")]
    NotThere(String),
    /// It is there already.
    #[error("object `{0}` is there already")]
    There(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Object {
    holders: BTreeSet<Holder>,
    doomed: bool,
}

/// Which objects there are and who rests on them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ledger {
    objects: BTreeMap<ObjectId, Object>,
}

impl Ledger {
    /// What a journal comes to. Its last line may be missing: then the step that it announced was not begun.
    pub fn read(journal: impl IntoIterator<Item = Entry>) -> Self {
        let mut ledger = Self::default();
        journal.into_iter().for_each(|entry| ledger.apply(entry));
        ledger
    }

    /// Takes one line over. Lines that repeat what is so already change nothing.
    pub fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Made { object, holder } | Entry::Held { object, holder } => {
                self.objects.entry(object).or_default().holders.insert(holder);
            }
            Entry::Dropped { object, holder } => {
                if let Some(object) = self.objects.get_mut(&object) {
                    object.holders.remove(&holder);
                }
            }
            Entry::Doomed { object } => {
                if let Some(object) = self.objects.get_mut(&object) {
                    object.doomed = true;
                }
            }
            Entry::Gone { object } => drop(self.objects.remove(&object)),
        }
    }

    /// The line by which a new object is announced.
    ///
    /// # Errors
    /// One of that name is there.
    pub fn make(&self, object: &ObjectId, holder: Holder) -> Result<Entry, ReferenceError> {
        match self.objects.get(object) {
            Some(_) => Err(ReferenceError::There(object.0.clone())),
            None => Ok(Entry::Made { object: object.clone(), holder }),
        }
    }

    /// The line by which one more rests on an object.
    ///
    /// # Errors
    /// It is not there, or its removal was announced.
    pub fn hold(&self, object: &ObjectId, holder: Holder) -> Result<Entry, ReferenceError> {
        match self.objects.get(object) {
            Some(found) if !found.doomed => Ok(Entry::Held { object: object.clone(), holder }),
            _ => Err(ReferenceError::NotThere(object.0.clone())),
        }
    }

    /// The lines by which a holder lets go of everything. What nobody else rests on is doomed: its files may be removed once these
    /// lines are on disk, and it is the holder's until [`Ledger::gone`] is written.
    pub fn release(&self, holder: &Holder) -> Vec<Entry> {
        let mine = self.objects.iter().filter(|(_, object)| object.holders.contains(holder) && !object.doomed);
        mine.map(|(id, object)| match object.holders.len() {
            1 => Entry::Doomed { object: id.clone() },
            _ => Entry::Dropped { object: id.clone(), holder: holder.clone() },
        })
        .collect()
    }

    /// The lines that follow the removal of a doomed object's files.
    pub fn gone(&self, object: &ObjectId) -> Vec<Entry> {
        let dropped = |holder| Entry::Dropped { object: object.clone(), holder };
        let last = self.holders(object).into_iter().map(dropped);
        last.chain([Entry::Gone { object: object.clone() }]).collect()
    }

    /// The lines that a start writes: holders that do not live let go, and what nobody rests on is doomed.
    pub fn settle(&self, lives: impl Fn(&Holder) -> bool) -> Vec<Entry> {
        let mut lines = Vec::new();
        for (id, object) in &self.objects {
            let dead = object.holders.iter().filter(|holder| !lives(holder));
            lines.extend(dead.map(|holder| Entry::Dropped { object: id.clone(), holder: holder.clone() }));
            if !object.doomed && !object.holders.iter().any(&lives) {
                lines.push(Entry::Doomed { object: id.clone() });
            }
        }
        lines
    }

    /// Objects whose files are to be removed; then `Gone` is written for each.
    pub fn doomed(&self) -> Vec<ObjectId> {
        self.objects.iter().filter(|(_, object)| object.doomed).map(|(id, _)| id.clone()).collect()
    }

    /// Objects whose files stay.
    pub fn there(&self) -> Vec<ObjectId> {
        self.objects.iter().filter(|(_, object)| !object.doomed).map(|(id, _)| id.clone()).collect()
    }

    /// Whether an object's files are there, or are being removed.
    pub fn knows(&self, object: &ObjectId) -> bool {
        self.objects.contains_key(object)
    }

    /// Whether an object's files are there and stay.
    pub fn has(&self, object: &ObjectId) -> bool {
        self.objects.get(object).is_some_and(|object| !object.doomed)
    }

    /// Who rests on an object.
    pub fn holders(&self, object: &ObjectId) -> Vec<Holder> {
        self.objects.get(object).map(|object| object.holders.iter().cloned().collect()).unwrap_or_default()
    }

    /// The objects that a holder rests on.
    pub fn of(&self, holder: &Holder) -> Vec<ObjectId> {
        self.objects.iter().filter(|(_, object)| object.holders.contains(holder)).map(|(id, _)| id.clone()).collect()
    }

    /// Everybody who rests on anything.
    pub fn everybody(&self) -> BTreeSet<Holder> {
        self.objects.values().flat_map(|object| object.holders.iter().cloned()).collect()
    }

    /// The shortest journal that comes to this ledger, for a rewrite.
    pub fn journal(&self) -> Vec<Entry> {
        let mut lines = Vec::new();
        for (id, object) in &self.objects {
            let held = object.holders.iter().map(|holder| Entry::Held { object: id.clone(), holder: holder.clone() });
            lines.extend(held);
            if object.holders.is_empty() {
                // Only a doomed one rests on nobody; a holder that is let go at once names it.
                let holder = Holder::Step { id: "rewrite".into() };
                lines.push(Entry::Made { object: id.clone(), holder: holder.clone() });
                lines.push(Entry::Dropped { object: id.clone(), holder });
            }
            if object.doomed {
                lines.push(Entry::Doomed { object: id.clone() });
            }
        }
        lines
    }
}
