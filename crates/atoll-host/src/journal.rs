//! What a sandbox's directory says about it.
//!
//! How it works: `journal` is a file of JSON lines, each written before the step that it announces. The names of everything that a
//! step makes follow from sandbox and instance, so few lines suffice: what the sandbox is, which keeper and VMM run (with start
//! time and boot id, which name a process for good), and a tombstone, after which it is only ever removed.
//!
//! A line that only an Atoll of the same boot can use is written and left to the kernel, which keeps it over any kill; a lasting one is
//! on disk, with all before it, when its write returns: a power cut must not bring back what was given up, or lose what is kept.
//!
//! An event stands here before it stands in the stream, under the number that it gets there: whichever of the two a crash cuts
//! short, the next start tells it, once. The file's space is reserved, so that a full disk keeps no sandbox from being ended.
//!
//! Deliberately absent: what the lines come to ([`crate::history`]), and secrets; they live in the keeper's memory.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use atoll_domain::host::{Call, HostEvent, SandboxSpec};
use atoll_domain::objects::ObjectId;
use atoll_domain::record::Paused;
use atoll_domain::snapshot::{Digest, Origin, Platform};
use atoll_domain::ttl::{Cause, Limits};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};
use serde::{Deserialize, Serialize};

use crate::Step;
use crate::history::History;
use crate::stamp::Stamp;

/// The file's name in a sandbox's directory.
pub(crate) const FILE: &str = "journal";
/// Room for every entry that a sandbox's end may need.
const RESERVED: u64 = 8 * 1024;
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
        /// The machine that its guest is given, which a later Atoll may not give any more. Absent in journals of Atolls that took their
        /// own for it.
        #[serde(default)]
        platform: Option<Box<Platform>>,
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
    /// User code is about to stand still while a template is made of the running VM.
    Copying {
        /// The template's object.
        object: ObjectId,
    },
    /// The guest knows who it is and user code runs: after a boot, a restore, a copy, or a pause that failed.
    Repaired {
        /// What its agent said that it speaks; none where that was not asked.
        #[serde(default)]
        protocol: Option<u32>,
    },
    /// Its limits were changed.
    Lifetime(Limits),
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
    /// Whether it must outlive the machine. What is under way before a VM was written down ends with the machine anyway.
    fn is_lasting(&self) -> bool {
        !matches!(
            self,
            Self::Create { .. }
                | Self::Boot { .. }
                | Self::Running(_)
                | Self::Resuming { .. }
                | Self::Copying { .. }
                | Self::Repaired { .. }
        )
    }

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
            Self::Copying { .. } => Step::JournalCopying,
            Self::Repaired { .. } => Step::JournalRepaired,
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
    /// The same on the clock that never jumps, in milliseconds since that boot.
    #[serde(default)]
    pub(crate) steady: Option<u64>,
}

/// The journal of one sandbox.
#[derive(Debug)]
pub(crate) struct Journal {
    dir: PathBuf,
}

impl Journal {
    /// Makes the directory and writes the first entry.
    pub(crate) fn create(dir: &Path, first: &Entry) -> std::io::Result<Self> {
        first.step().before();
        fs::DirBuilder::new().mode(0o700).create(dir)?;
        let mut options = OpenOptions::new();
        let file = options.append(true).create_new(true).mode(0o600).open(path(dir))?;
        reserve(&file, 0);
        let journal = Self { dir: dir.to_owned() };
        journal.append(first)?;
        first.step().after();
        Ok(journal)
    }

    /// Cuts off what an earlier Atoll did not finish writing, and removes what it did not finish writing anew, before this one writes
    /// anything. Blocks.
    pub(crate) fn mend(dir: &Path) -> std::io::Result<()> {
        crate::data_dir::clear_unfinished(dir)?;
        match open_whole(OpenOptions::new().append(true), &path(dir)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            opened => opened.map(drop),
        }
    }

    /// Opens what is there, for more.
    pub(crate) fn open(dir: &Path) -> std::io::Result<Self> {
        fs::metadata(path(dir))?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Writes a paused sandbox's journal anew if it has grown long: what it is, its limits, what it told last, what is kept.
    pub(crate) fn compact(dir: &Path) -> std::io::Result<()> {
        // Limits may be changed meanwhile; a line that went into the old file would go with it.
        let _alone = alone(dir)?;
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
        let first = Entry::Create { call, spec: spec.clone() };
        let limits = history.entries.iter().rev().find(|entry| matches!(entry, Entry::Lifetime(_))).cloned();
        // Every event before the last is in the stream: the next is only told when this one is.
        let told = history.told().next_back().cloned().map(Entry::Told);
        let kept = Entry::Paused(Box::new(kept));
        let mut text = Vec::new();
        for entry in std::iter::once(first).chain(limits).chain(told).chain([kept]) {
            serde_json::to_writer(&mut text, &entry)?;
            text.push(b'\n');
        }
        crate::data_dir::replace_as(Step::JournalCompact, &path(dir), &text, 0o600)?;
        reserve(&OpenOptions::new().append(true).open(path(dir))?, text.len() as u64);
        Ok(())
    }

    /// Makes everything lasting that is written, and the directory itself.
    pub(crate) fn settle(dir: &Path) -> std::io::Result<()> {
        File::open(path(dir))?.sync_data()?;
        File::open(dir)?.sync_all()?;
        match dir.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    }

    /// Appends an entry; on disk when this returns, if it is a lasting one.
    pub(crate) fn write(&self, entry: &Entry) -> std::io::Result<()> {
        entry.step().before();
        self.append(entry)?;
        entry.step().after();
        Ok(())
    }

    fn append(&self, entry: &Entry) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let _alone = alone(&self.dir)?;
        // Opened for each line: the file may have been written anew since the last.
        let mut file = OpenOptions::new().append(true).open(path(&self.dir))?;
        append(&mut file, &line, entry.is_lasting())?;
        let after = file.metadata()?.len();
        if after % RESERVED < line.len() as u64 {
            reserve(&file, after);
        }
        Ok(())
    }
}

/// Nobody else writes to the journal of this directory until the lock is dropped. Blocks.
fn alone(dir: &Path) -> std::io::Result<Flock<File>> {
    let mut file = File::open(dir)?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(locked) => return Ok(locked),
            Err((back, Errno::EINTR)) => file = back,
            Err((_, errno)) => return Err(errno.into()),
        }
    }
}

/// Takes blocks for what comes after a place. Where the file system cannot reserve, a full disk is found when it is met.
fn reserve(file: &File, from: u64) {
    let bytes = i64::try_from(2 * RESERVED).unwrap_or(i64::MAX);
    let _ = fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, i64::try_from(from).unwrap_or(i64::MAX), bytes);
}

/// The journal of a sandbox's directory.
pub(crate) fn path(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

/// The machine's boot id.
pub(crate) fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

/// Opens a file of lines for more of them, without what a crash cut short at its end: the next line would be glued to it. Nobody
/// else may be writing: half of a line looks like one that was cut short.
pub(crate) fn open_whole(options: &mut OpenOptions, path: &Path) -> std::io::Result<File> {
    let file = options.read(true).open(path)?;
    let length = file.metadata()?.len();
    let mut end = length;
    let mut piece = [0; 4096];
    while end > 0 {
        let begin = end.saturating_sub(piece.len() as u64);
        let piece = &mut piece[..usize::try_from(end - begin).unwrap_or_default()];
        file.read_exact_at(piece, begin)?;
        if let Some(last) = piece.iter().rposition(|byte| *byte == b'\n') {
            end = begin + last as u64 + 1;
            break;
        }
        end = begin;
    }
    if end < length {
        tracing::warn!(path = %path.display(), bytes = length - end, "a line that was never finished is cut off");
        file.set_len(end)?;
        file.sync_data()?;
    }
    Ok(file)
}

/// Appends a line as a whole or not at all; on disk when this returns.
pub(crate) fn append_whole(file: &mut File, line: &[u8]) -> std::io::Result<()> {
    append(file, line, true)
}

/// The same; a line that is not lasting is left to the kernel.
pub(crate) fn append(file: &mut File, line: &[u8], lasting: bool) -> std::io::Result<()> {
    let before = file.metadata()?.len();
    let written = file.write_all(line).and_then(|()| if lasting { file.sync_data() } else { Ok(()) });
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
