//! What a sandbox's directory says about it.
//!
//! How it works: `journal` is a file of JSON lines, each on disk before the step that it announces. The names of everything that a
//! step makes follow from sandbox and instance, so few lines suffice: what the sandbox is, which keeper and VMM run (with start
//! time and boot id, which name a process for good), and a tombstone, after which it is only ever removed.
//!
//! Deliberately absent: secrets; they live in the keeper's memory.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use atoll_domain::host::{Call, SandboxSpec};
use serde::{Deserialize, Serialize};

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
    },
    /// They run.
    Running(Processes),
    /// Everything is to be given back, for this reason.
    Tombstone {
        /// For people.
        reason: String,
    },
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
    /// The boot of the machine.
    pub(crate) boot_id: String,
}

/// The journal of one sandbox.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
}

impl Journal {
    /// Makes the directory and writes the first entry.
    pub(crate) fn create(dir: &Path, first: &Entry) -> std::io::Result<Self> {
        fs::DirBuilder::new().mode(0o700).create(dir)?;
        let mut options = OpenOptions::new();
        let file = options.append(true).create_new(true).mode(0o600).open(path(dir))?;
        let mut journal = Self { file };
        journal.write(first)?;
        File::open(dir)?.sync_all()?;
        if let Some(parent) = dir.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(journal)
    }

    /// Opens what is there, for more.
    pub(crate) fn open(dir: &Path) -> std::io::Result<Self> {
        Ok(Self { file: OpenOptions::new().append(true).open(path(dir))? })
    }

    /// Appends an entry; on disk when this returns.
    pub(crate) fn write(&mut self, entry: &Entry) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.file.sync_data()
    }
}

/// The entries of a directory; a last line that a crash cut short was not acted upon and is left out.
pub(crate) fn read(dir: &Path) -> std::io::Result<Vec<Entry>> {
    let text = fs::read_to_string(path(dir))?;
    Ok(text.lines().map_while(|line| serde_json::from_str(line).ok()).collect())
}

fn path(dir: &Path) -> PathBuf {
    dir.join("journal")
}

/// The machine's boot id.
pub(crate) fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}
