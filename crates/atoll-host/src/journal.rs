//! What a sandbox's directory says about it.
//!
//! How it works: `journal` is a file of JSON lines, each on disk before the step that it announces. The names of everything that a
//! step makes follow from sandbox and instance, so few lines suffice: what the sandbox is, which keeper and VMM run (with start
//! time and boot id, which name a process for good), and a tombstone, after which it is only ever removed.
//!
//! An event stands here before it stands in the stream, under the number that it gets there: whichever of the two a crash cuts
//! short, the next start tells it, once. The file's space is reserved, so that a full disk keeps no sandbox from being ended.
//!
//! Deliberately absent: secrets; they live in the keeper's memory.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use atoll_domain::host::{Call, HostEvent, HostEventKind, SandboxSpec};
use atoll_domain::objects::ObjectId;
use atoll_domain::record::Paused;
use atoll_domain::recovery::Traces;
use atoll_domain::snapshot::{Digest, Origin};
use atoll_domain::ttl::{Cause, Lifetime};
use nix::fcntl::{FallocateFlags, fallocate};
use serde::{Deserialize, Serialize};

use crate::Step;
use crate::stamp::Stamp;

/// The file's name in a sandbox's directory.
pub(crate) const FILE: &str = "journal";
/// Room for every entry that a sandbox's end may need.
const RESERVED: i64 = 16 * 1024;
/// A journal that is longer is written anew when its sandbox is paused.
const COMPACT_OVER: u64 = 64 * 1024;

/// A line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub(crate) enum Entry {
    /// The sandbox is to be made. Always the first.
    Create {
        /// The call that asked for it.
        call: Call,
        /// What it is to be.
        spec: SandboxSpec,
    },
    /// A keeper is about to be started; the try, from 1.
    Boot {
        /// Counted from 1.
        attempt: u8,
        /// What it is started from. Absent in journals of Atolls that could not pause.
        #[serde(default)]
        sources: Option<Sources>,
    },
    /// They run.
    Running(Processes),
    /// What is kept is about to be made, in a directory of this name.
    Pausing {
        /// The generation; also of a pause of the disk alone, which keeps none.
        generation: String,
    },
    /// It is on disk: the sandbox is paused, whatever becomes of its VM.
    Paused(Box<Kept>),
    /// Base and diff of what is kept were made into a new base.
    Flattened {
        /// The new base, which needs no diff.
        base: Base,
    },
    /// A VM is about to be made of what is kept, in the life of this call. It is the sandbox's once it is `Running`.
    Resuming {
        /// The call that asked for it.
        call: Call,
    },
    /// Its memory turned out to be of no use any more; the disk stays.
    MemoryLost,
    /// The guest knows who it is and user code runs: after a boot, a restore, or a pause that failed.
    Repaired,
    /// Its limits were changed.
    Lifetime(Lifetime),
    /// Something that is told through the event stream.
    Told(HostEvent),
    /// Everything is to be given back, for this reason.
    Tombstone {
        /// For people.
        reason: String,
        /// Whether it ended by itself, so that the event stream tells of it.
        #[serde(default)]
        tell: bool,
    },
}

impl Entry {
    fn step(&self) -> Step {
        match self {
            Self::Create { .. } => Step::JournalCreate,
            Self::Boot { .. } => Step::JournalBoot,
            Self::Running(_) => Step::JournalRunning,
            Self::Pausing { .. } => Step::JournalPausing,
            Self::Paused(_) => Step::JournalPaused,
            Self::Flattened { .. } => Step::JournalFlattened,
            Self::Resuming { .. } => Step::JournalResuming,
            Self::MemoryLost => Step::JournalMemoryLost,
            Self::Repaired => Step::JournalRepaired,
            Self::Lifetime(_) => Step::JournalLifetime,
            Self::Told(_) => Step::JournalTold,
            Self::Tombstone { .. } => Step::JournalTombstone,
        }
    }
}

/// What a VM is started from, besides what is the sandbox's own. All are files that nobody changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sources {
    /// The template's image.
    pub(crate) image: PathBuf,
    /// The kernel of a cold boot.
    pub(crate) kernel: PathBuf,
    /// The archive with the guest agent.
    pub(crate) initrd: PathBuf,
    /// What guest memory is a private mapping of.
    pub(crate) base: Base,
    /// Kernel, image and agent by what they hold.
    pub(crate) origin: Origin,
}

/// What guest memory is a private mapping of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Base {
    /// Nothing but zeroes, after a cold boot.
    Empty,
    /// A flat image of the sandbox's own.
    Own {
        /// Its name in the sandbox's directory.
        file: String,
        /// What it holds.
        digest: Digest,
        /// How it looked when it was written. Absent in older journals: then it is read at every start.
        #[serde(default)]
        stamp: Option<Stamp>,
    },
    /// An object that others start from, too.
    Object {
        /// Which.
        id: ObjectId,
    },
}

/// What is kept of a paused sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// As others are told of it. Without a generation the disk alone is kept.
    pub(crate) paused: Paused,
    /// What its VM was started from.
    pub(crate) sources: Sources,
    /// Whether the generation has a diff to the base.
    pub(crate) diff: bool,
    /// Whether the host paused it by itself, so that the event stream tells of it.
    pub(crate) by_host: bool,
    /// Which of its limits it was then; none when Atoll stopped.
    pub(crate) cause: Option<Cause>,
}

/// The processes of a sandbox, named for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Processes {
    /// The keeper.
    pub(crate) keeper_pid: u32,
    /// Its VMM.
    pub(crate) vmm_pid: u32,
    /// Clock ticks since boot at the VMM's start.
    pub(crate) vmm_start: u64,
    /// Clock ticks since boot at the keeper's start.
    #[serde(default)]
    pub(crate) keeper_start: u64,
    /// The boot of the machine.
    pub(crate) boot_id: String,
    /// When they were written down, in microseconds since 1970.
    #[serde(default)]
    pub(crate) at: i64,
}

/// The journal of one sandbox.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
}

impl Journal {
    /// Makes the directory and writes the first entry.
    pub(crate) fn create(dir: &Path, first: &Entry) -> std::io::Result<Self> {
        first.step().before();
        fs::DirBuilder::new().mode(0o700).create(dir)?;
        let mut options = OpenOptions::new();
        let file = options.append(true).create_new(true).mode(0o600).open(path(dir))?;
        // Where the file system cannot reserve, a full disk is found when it is met.
        let _ = fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, RESERVED);
        let mut journal = Self { file };
        journal.append(first)?;
        File::open(dir)?.sync_all()?;
        if let Some(parent) = dir.parent() {
            File::open(parent)?.sync_all()?;
        }
        first.step().after();
        Ok(journal)
    }

    /// Opens what is there, for more.
    pub(crate) fn open(dir: &Path) -> std::io::Result<Self> {
        Ok(Self { file: OpenOptions::new().append(true).open(path(dir))? })
    }

    /// Writes a paused sandbox's journal anew if it has grown long: what it is, what it told last, what is kept.
    pub(crate) fn compact(dir: &Path) -> std::io::Result<()> {
        if fs::metadata(path(dir))?.len() < COMPACT_OVER {
            return Ok(());
        }
        let history = History::read(dir)?;
        let (Some((_, spec)), Some(call), Some(kept)) = (history.created(), history.call(), history.paused()) else {
            return Ok(());
        };
        if history.foreign || history.tombstone().is_some() {
            return Ok(());
        }
        let spec = SandboxSpec { lifetime: history.lifetime().unwrap_or(spec.lifetime), ..spec.clone() };
        // Every event before the last is in the stream: the next is only told when this one is.
        let told = history.told().next_back().cloned().map(Entry::Told);
        let entries = std::iter::once(Entry::Create { call, spec }).chain(told).chain([Entry::Paused(Box::new(kept))]);
        let mut text = Vec::new();
        for entry in entries {
            serde_json::to_writer(&mut text, &entry)?;
            text.push(b'\n');
        }
        crate::data_dir::replace(&path(dir), &text, 0o600)
    }

    /// Appends an entry; on disk when this returns.
    pub(crate) fn write(&mut self, entry: &Entry) -> std::io::Result<()> {
        entry.step().before();
        self.append(entry)?;
        entry.step().after();
        Ok(())
    }

    fn append(&mut self, entry: &Entry) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        append_whole(&mut self.file, &line)
    }
}

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

    /// The call of the life that it is in: of its create, or of the last resume whose VM came to run.
    pub(crate) fn call(&self) -> Option<Call> {
        let (mut call, mut next) = (None, None);
        for entry in &self.entries {
            match entry {
                Entry::Create { call: first, .. } => call = Some(first.clone()),
                Entry::Resuming { call: asked } => next = Some(asked.clone()),
                Entry::Running(_) => call = next.take().or(call),
                _ => {}
            }
        }
        call
    }

    /// Whether user code may stand still, or a restored guest may not know yet who it is.
    pub(crate) fn needs_repair(&self) -> bool {
        let step = self.entries.iter().rev().find_map(|entry| match entry {
            Entry::Boot { sources: Some(_), .. } | Entry::Pausing { .. } | Entry::Resuming { .. } => Some(true),
            Entry::Repaired => Some(false),
            _ => None,
        });
        step.unwrap_or(false)
    }

    /// What its VM was started from last.
    pub(crate) fn sources(&self) -> Option<&Sources> {
        self.entries.iter().rev().find_map(|entry| match entry {
            Entry::Boot { sources, .. } => sources.as_ref(),
            _ => None,
        })
    }

    /// Its limits.
    pub(crate) fn lifetime(&self) -> Option<Lifetime> {
        self.entries.iter().rev().find_map(|entry| match entry {
            Entry::Lifetime(lifetime) => Some(*lifetime),
            Entry::Create { spec, .. } => Some(spec.lifetime),
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
        }
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

/// The machine's boot id.
pub(crate) fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

/// Appends a line as a whole or not at all; on disk when this returns.
pub(crate) fn append_whole(file: &mut File, line: &[u8]) -> std::io::Result<()> {
    let before = file.metadata()?.len();
    let written = file.write_all(line).and_then(|()| file.sync_data());
    if written.is_err() {
        // What a full disk cut short must not stand before the next line. If this fails too, that line is foreign to readers.
        let _ = file.set_len(before);
    }
    written
}

/// When a process started, in clock ticks since boot; none if there is no such process.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in the second field may hold anything, so counting begins behind its last parenthesis.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use atoll_domain::host::{EventSeq, OwnFiles};
    use atoll_domain::{Incarnation, Network, OperationId, SandboxId, Shape};

    fn first() -> Entry {
        let call = Call { operation: OperationId::from_random([1; 16]), incarnation: Incarnation::FIRST };
        let spec = SandboxSpec {
            id: SandboxId::from_random([2; 16]),
            template: "base".into(),
            shape: Shape { vcpus: 1, memory_mb: 128, disk_mb: 128 },
            network: Network::None,
            default_user: "root".into(),
            lifetime: atoll_domain::ttl::Lifetime::default(),
            snapshot: None,
            cold: false,
            own: OwnFiles::default(),
        };
        Entry::Create { call, spec }
    }

    fn kept(at: u64) -> Kept {
        let digest = |n| Digest([n; 32]);
        let origin = Origin { kernel: digest(1), base: digest(2), agent: digest(3), agent_version: "0".into() };
        let (image, kernel, initrd) = ("/i".into(), "/k".into(), "/n".into());
        let sources = Sources { image, kernel, initrd, base: Base::Empty, origin };
        let at = i64::try_from(at).unwrap();
        let paused = Paused { at, generation: Some("g".into()), quiesced: true, bytes: 2 };
        Kept { paused, sources, diff: true, by_host: false, cause: None }
    }

    fn boot(attempt: u8) -> Entry {
        Entry::Boot { attempt, sources: None }
    }

    fn running() -> Entry {
        Entry::Running(Processes {
            keeper_pid: 1,
            vmm_pid: 2,
            vmm_start: 3,
            keeper_start: 4,
            boot_id: boot_id(),
            at: 5,
        })
    }

    #[test]
    fn a_boot_that_did_not_come_far_hides_an_earlier_one() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("s");
        let mut journal = Journal::create(&dir, &first()).unwrap();
        for (entry, runs) in [(boot(1), false), (running(), true), (boot(2), false)] {
            journal.write(&entry).unwrap();
            let history = History::read(&dir).unwrap();
            assert_eq!(history.traces().running, runs);
            assert!(history.traces().created && !history.traces().foreign);
        }
        journal.write(&running()).unwrap();
        assert!(History::read(&dir).unwrap().traces().this_boot);
    }

    #[test]
    fn a_line_cut_short_is_nothing_and_an_unknown_one_is_foreign() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("s");
        Journal::create(&dir, &first()).unwrap();
        let text = fs::read(path(&dir)).unwrap();
        for cut in 0..text.len() {
            let history = History::parse(&text[..cut]);
            assert!(history.entries.is_empty() && !history.foreign, "{cut}");
        }
        let newer = [text.as_slice(), b"{\"step\":\"levitating\"}\n"].concat();
        assert!(History::parse(&newer).foreign);
        assert!(!History::parse(&newer[..newer.len() - 1]).foreign, "not written to its end");
    }

    #[test]
    fn a_long_journal_is_written_anew_and_says_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("s");
        let mut journal = Journal::create(&dir, &first()).unwrap();
        let call = |life| Call { operation: OperationId::from_random([9; 16]), incarnation: Incarnation(life) };
        for life in 2..300 {
            for entry in [Entry::Paused(Box::new(kept(life))), Entry::Resuming { call: call(life) }, boot(1), running()]
            {
                journal.write(&entry).unwrap();
            }
        }
        let lifetime = Lifetime { timeout_sec: 7, ..Lifetime::default() };
        journal.write(&Entry::Lifetime(lifetime)).unwrap();
        journal.write(&Entry::Paused(Box::new(kept(300)))).unwrap();
        let before = History::read(&dir).unwrap();
        Journal::compact(&dir).unwrap();
        let after = History::read(&dir).unwrap();
        assert!(after.entries.len() < 4 && before.entries.len() > 1000);
        assert_eq!(
            (after.call(), after.paused(), after.lifetime()),
            (before.call(), before.paused(), before.lifetime())
        );
        assert_eq!(after.traces(), Traces { running: false, this_boot: false, ..before.traces() });
        Journal::open(&dir).unwrap().write(&Entry::MemoryLost).unwrap();
        assert_eq!(History::read(&dir).unwrap().paused().unwrap().paused.generation, None, "it goes on");
    }

    #[test]
    fn what_was_told_is_read_back() {
        let event = |seq, kind| {
            let sandbox = SandboxId::from_random([2; 16]);
            Entry::Told(HostEvent { seq: EventSeq(seq), sandbox, incarnation: Incarnation::FIRST, kind })
        };
        let mut history = History { entries: vec![first(), event(1, HostEventKind::DiskFull)], foreign: false };
        assert!(history.halt_told() && !history.end_told());
        history.entries.push(event(2, HostEventKind::Resumed));
        assert!(!history.halt_told());
        history.entries.push(Entry::Tombstone { reason: "r".into(), tell: true });
        history.entries.push(event(3, HostEventKind::Ended { reason: "r".into() }));
        assert!(history.end_told());
        assert_eq!(history.tombstone(), Some(("r", true)));
    }

    #[test]
    fn what_is_kept_lasts_until_a_vm_of_it_runs_and_a_life_begins_then() {
        let kept = kept(1);
        let first_life = History { entries: vec![first()], foreign: false }.call().unwrap();
        let call = Call { operation: OperationId::from_random([9; 16]), incarnation: Incarnation(2) };
        let mut history = History { entries: vec![first(), boot(1), running()], foreign: false };
        let pausing = Entry::Pausing { generation: "g".into() };
        for (entry, is_paused, repair, life) in [
            (pausing, false, true, &first_life),
            (Entry::Paused(Box::new(kept.clone())), true, true, &first_life),
            (Entry::Resuming { call: call.clone() }, true, true, &first_life),
            (boot(1), true, true, &first_life),
            (running(), false, true, &call),
            (Entry::Repaired, false, false, &call),
        ] {
            history.entries.push(entry.clone());
            assert_eq!(history.paused().is_some(), is_paused, "{entry:?}");
            assert_eq!(history.needs_repair(), repair, "{entry:?}");
            assert_eq!(history.call().as_ref(), Some(life), "{entry:?}");
        }
        let base = Base::Own { file: "base-h".into(), digest: Digest([7; 32]), stamp: None };
        history.entries.push(Entry::Paused(Box::new(kept)));
        history.entries.push(Entry::Flattened { base: base.clone() });
        let now = history.paused().unwrap();
        assert_eq!((now.diff, now.sources.base), (false, base));
        history.entries.push(Entry::MemoryLost);
        assert_eq!(history.paused().unwrap().paused.generation, None);
    }
}
