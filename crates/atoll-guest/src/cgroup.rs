//! Control groups: the agent in one, everything that it starts in others, so that it
//! answers while user code eats every cycle and all memory.
//!
//! How it works: `/sys/fs/cgroup/atoll` holds the agent, with memory of its own and first claim on the processor;
//! `/sys/fs/cgroup/user` everything else, one child group a process. A group goes when its last process has gone; one
//! that is still used by background children then is tried again whenever another process starts or ends.
//!
//! Deliberately absent: limits of one program's memory or time: the machine is the limit.

use std::{
    collections::VecDeque,
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{console, error::AgentError, freeze::Freezer};

const ROOT: &str = "/sys/fs/cgroup";
/// How many left groups are tried at once.
const SWEEP: usize = 32;

/// Makes the groups at boot and moves the calling process into the agent's.
///
/// What the kernel lacks is said on the console; a guest without it still works.
pub(crate) fn prepare(memory: u64) {
    let root = Path::new(ROOT);
    let reserve = (memory / 8).clamp(32 << 20, 128 << 20);
    let steps = [
        ("cgroup.subtree_control", "+cpu".to_owned()),
        ("cgroup.subtree_control", "+memory".to_owned()),
        ("cgroup.subtree_control", "+pids".to_owned()),
        ("cgroup.subtree_control", "+io".to_owned()),
    ];
    for (file, value) in steps {
        set(&root.join(file), &value);
    }
    for group in ["atoll", "user"] {
        if let Err(error) = fs::create_dir_all(root.join(group)) {
            console::say(&format!("cgroup {group}: {error}"));
        }
    }
    let (agent, user) = (root.join("atoll"), root.join("user"));
    set(&agent.join("cpu.weight"), "10000");
    set(&agent.join("memory.min"), &(reserve / 2).to_string());
    set(&user.join("cpu.weight"), "50");
    set(&user.join("memory.max"), &memory.saturating_sub(reserve).to_string());
    set(&user.join("pids.max"), &tasks(memory).to_string());
    for controller in ["+cpu", "+memory", "+pids"] {
        set(&user.join("cgroup.subtree_control"), controller);
    }
    set(&agent.join("cgroup.procs"), "0");
}

/// How many tasks all user code may have: what the memory carries.
fn tasks(memory: u64) -> u64 {
    (memory / (512 << 10)).clamp(256, 32_768)
}

fn set(file: &Path, value: &str) {
    if let Err(error) = fs::write(file, value) {
        console::say(&format!("{} = {value}: {error}", file.display()));
    }
}

/// Hands out a group for each process.
pub(crate) struct Groups {
    parent: Option<PathBuf>,
    /// `pids.max` of one group: less than all, so that a process that forks without end
    /// leaves room to start another that ends it.
    tasks: String,
    next: AtomicU64,
    left: Mutex<VecDeque<PathBuf>>,
    pub(crate) freezer: Freezer,
}

impl Groups {
    /// Groups under the user group, when this machine has one.
    pub(crate) fn of_machine(memory: u64) -> Self {
        Self::under(Path::new(ROOT).join("user"), memory)
    }

    /// Groups under a group, when it exists.
    pub(crate) fn under(parent: PathBuf, memory: u64) -> Self {
        let parent = parent.join("cgroup.procs").exists().then_some(parent);
        Self {
            freezer: Freezer::new(parent.clone()),
            parent,
            tasks: (tasks(memory) / 4 * 3).to_string(),
            next: AtomicU64::new(1),
            left: Mutex::default(),
        }
    }

    /// Without groups: an agent that is no machine's own.
    pub(crate) fn none() -> Self {
        Self {
            parent: None,
            tasks: String::new(),
            next: AtomicU64::new(1),
            left: Mutex::default(),
            freezer: Freezer::new(None),
        }
    }

    /// A fresh group; `None` on a machine without.
    pub(crate) fn make(&self) -> Result<Option<Group>, AgentError> {
        self.sweep();
        let Some(parent) = &self.parent else {
            return Ok(None);
        };
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("p{number}"));
        fs::create_dir(&path).map_err(|error| AgentError::io("making a cgroup", error))?;
        // Without the controller there is no such file, and no bound.
        let _ = fs::write(path.join("pids.max"), &self.tasks);
        Ok(Some(Group { path, kept: false }))
    }

    /// Gives a group back whose first process has ended.
    pub(crate) fn leave(&self, mut group: Group) {
        if fs::remove_dir(&group.path).is_err() {
            self.lock().push_back(group.path.clone());
        }
        group.kept = true;
        self.sweep();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<PathBuf>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sweep(&self) {
        let mut left = self.lock();
        for _ in 0..left.len().min(SWEEP) {
            if let Some(path) = left.pop_front()
                && fs::remove_dir(&path).is_err()
                && path.exists()
            {
                left.push_back(path);
            }
        }
    }
}

/// One process's group. Dropped, it is removed if nothing is in it.
pub(crate) struct Group {
    path: PathBuf,
    kept: bool,
}

impl Group {
    /// The file that takes a process in.
    pub(crate) fn entry(&self) -> Result<OwnedFd, AgentError> {
        let open = || -> io::Result<OwnedFd> {
            let file = fs::OpenOptions::new().write(true).open(self.path.join("cgroup.procs"))?;
            Ok(file.into())
        };
        open().map_err(|error| AgentError::io("opening a cgroup", error))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.kept {
            // A process that failed to start may still be leaving; the directory is tiny.
            let _ = fs::remove_dir(&self.path);
        }
    }
}
