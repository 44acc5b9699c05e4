//! What the lines of a sandbox's journal come to.
//!
//! How it works: the journal is read whole; each question is answered from its lines, the newest that says something counting. A last line that
//! a crash cut short was not acted upon and is left out; a whole line that this version does not know makes the sandbox foreign.
//!
//! Deliberately absent: writing ([`crate::journal`]), and what follows from it (`atoll_domain::recovery`).

use std::fs;
use std::path::Path;

use atoll_domain::host::{Call, HostEvent, HostEventKind, SandboxSpec};
use atoll_domain::record::Paused;
use atoll_domain::recovery::Traces;
use atoll_domain::snapshot::Platform;
use atoll_domain::ttl::Limits;

use crate::journal::{Base, Entry, Kept, Processes, Sources, boot_id, path};

/// What a directory's journal says.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// The entries, the oldest first.
    pub(crate) entries: Vec<Entry>,
    /// Whether there is a whole line that this version does not know.
    pub(crate) foreign: bool,
}

impl History {
    /// Reads it. A last line that a crash cut short was not acted upon and is left out; no journal is an empty one.
    pub(crate) fn read(dir: &Path) -> std::io::Result<Self> {
        match fs::read(path(dir)) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    fn parse(text: &[u8]) -> Self {
        let mut history = Self::default();
        for line in text.split_inclusive(|b| *b == b'\n').filter(|line| line.ends_with(b"\n")) {
            match serde_json::from_slice(line) {
                Ok(entry) => history.entries.push(entry),
                Err(_) => history.foreign = true,
            }
        }
        history
    }

    /// What the sandbox is.
    pub(crate) fn created(&self) -> Option<(&Call, &SandboxSpec)> {
        match self.entries.first() {
            Some(Entry::Create { call, spec }) => Some((call, spec)),
            _ => None,
        }
    }

    /// Keeper and VMM of the latest boot; none if that boot did not come so far.
    pub(crate) fn running(&self) -> Option<&Processes> {
        let latest = self.entries.iter().rev().find(|e| matches!(e, Entry::Boot { .. } | Entry::Running(_)))?;
        match latest {
            Entry::Running(processes) => Some(processes),
            _ => None,
        }
    }

    /// What is kept, if it is paused: no VM that was made of it came to run.
    pub(crate) fn paused(&self) -> Option<Kept> {
        let mut kept: Option<Kept> = None;
        for entry in &self.entries {
            match (entry, &mut kept) {
                (Entry::Paused(now), _) => kept = Some(now.as_ref().clone()),
                (Entry::Flattened { base }, Some(kept)) => {
                    kept.sources.base.clone_from(base);
                    kept.diff = false;
                }
                (Entry::MemoryLost, Some(kept)) => kept.paused.generation = None,
                (Entry::Running(_), _) => kept = None,
                _ => {}
            }
        }
        kept
    }

    /// What stays of one whose VM was made of what was kept, ran, and ended before its guest was told who it is: the disk. None if it is
    /// paused, or its life had begun.
    pub(crate) fn fallen_back(&self) -> Option<Kept> {
        let ran = self.entries.iter().rposition(|entry| matches!(entry, Entry::Running(_)))?;
        let before = self.entries[..ran].iter().rposition(|entry| matches!(entry, Entry::Paused(_)))?;
        let newest =
            self.entries.iter().rposition(|entry| matches!(entry, Entry::Paused(_) | Entry::Repaired { .. }))?;
        match &self.entries[before] {
            Entry::Paused(kept) if newest == before => {
                // Not where its owner had given the memory up for that resume.
                let given_up = self.entries[before..ran].iter().any(|entry| matches!(entry, Entry::MemoryLost));
                let memory_lost = kept.paused.memory_lost || (kept.paused.generation.is_some() && !given_up);
                let paused = Paused { generation: None, memory_lost, ..kept.paused.clone() };
                Some(Kept { paused, diff: false, by_host: false, cause: None, ..kept.as_ref().clone() })
            }
            _ => None,
        }
    }

    /// The call of the life that it is in: of its create, or of the last resume whose VM came to run. A VM that was given up before
    /// its guest was told who it is began no life: nobody was told of it.
    pub(crate) fn call(&self) -> Option<Call> {
        let (mut call, mut asked, mut begun) = (None, None, None);
        for entry in &self.entries {
            match entry {
                Entry::Create { call: first, .. } => call = Some(first.clone()),
                Entry::Resuming { call: next } => asked = Some(next.clone()),
                Entry::Running(_) => begun = asked.take().or(begun),
                Entry::Paused(_) => begun = None,
                Entry::Repaired { .. } => call = begun.take().or(call),
                _ => {}
            }
        }
        begun.or(call)
    }

    /// Whether user code may stand still, or a restored guest may not know yet who it is.
    pub(crate) fn needs_repair(&self) -> bool {
        let step = self.entries.iter().rev().find_map(|entry| match entry {
            Entry::Boot { sources: Some(_), .. }
            | Entry::Pausing { .. }
            | Entry::Resuming { .. }
            | Entry::Copying { .. } => Some(true),
            Entry::Repaired { .. } => Some(false),
            _ => None,
        });
        step.unwrap_or(false)
    }

    /// Whether the guest of the last start was told who it is: from then on somebody may know of its life.
    pub(crate) fn was_introduced(&self) -> bool {
        let newest = self.entries.iter().rev().find(|e| matches!(e, Entry::Boot { .. } | Entry::Repaired { .. }));
        matches!(newest, Some(Entry::Repaired { .. }))
    }

    /// What its guest's agent speaks, as far as that was written down.
    pub(crate) fn agent_protocol(&self) -> Option<u32> {
        self.entries.iter().rev().find_map(|entry| match entry {
            Entry::Repaired { protocol } => *protocol,
            _ => None,
        })
    }

    /// What its VM was started from last.
    pub(crate) fn sources(&self) -> Option<&Sources> {
        self.entries.iter().rev().find_map(|entry| match entry {
            Entry::Boot { sources, .. } => sources.as_ref(),
            _ => None,
        })
    }

    /// The machine that its guest was given with the last start.
    pub(crate) fn platform(&self) -> Option<&Platform> {
        self.entries.iter().rev().find_map(|entry| match entry {
            Entry::Boot { platform, .. } => Some(platform.as_deref()),
            _ => None,
        })?
    }

    /// Its limits, with the number of the change that made them.
    pub(crate) fn limits(&self) -> Option<Limits> {
        self.entries.iter().rev().find_map(|entry| match entry {
            Entry::Lifetime(limits) => Some(*limits),
            Entry::Create { spec, .. } => Some(Limits { lifetime: spec.lifetime, revision: 0 }),
            _ => None,
        })
    }

    /// The tombstone's reason and whether to tell it.
    pub(crate) fn tombstone(&self) -> Option<(&str, bool)> {
        self.entries.iter().find_map(|entry| match entry {
            Entry::Tombstone { reason, tell } => Some((reason.as_str(), *tell)),
            _ => None,
        })
    }

    /// What was told, the oldest first.
    pub(crate) fn told(&self) -> impl DoubleEndedIterator<Item = &HostEvent> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Told(event) => Some(event),
            _ => None,
        })
    }

    /// Whether its end was told.
    pub(crate) fn end_told(&self) -> bool {
        self.told().any(|event| matches!(event.kind, HostEventKind::Ended { .. }))
    }

    /// Whether the last thing told is that it stands still.
    pub(crate) fn halt_told(&self) -> bool {
        self.told().next_back().is_some_and(|event| event.kind == HostEventKind::DiskFull)
    }

    /// What the rule about recovery looks at.
    pub(crate) fn traces(&self) -> Traces {
        Traces {
            created: self.created().is_some(),
            foreign: self.foreign,
            running: self.running().is_some(),
            this_boot: self.running().is_some_and(|processes| processes.boot_id == boot_id()),
            paused: self.paused().is_some(),
            tombstone: self.tombstone().is_some(),
            unnamed_copy: self.is_unnamed_copy(),
        }
    }

    /// Whether it starts as a copy and its guest was not told yet that it is somebody else.
    fn is_unnamed_copy(&self) -> bool {
        let is_copy = self.sources().is_some_and(|sources| matches!(sources.base, Base::Object { .. }));
        // A journal that was written anew begins with what is kept.
        is_copy && !self.entries.iter().any(|entry| matches!(entry, Entry::Repaired { .. } | Entry::Paused(_)))
    }
}

#[cfg(test)]
mod tests;
