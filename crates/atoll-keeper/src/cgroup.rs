//! Control groups of one sandbox: one for its keeper, one for its VMM.
//!
//! How it works: under `atoll-<instance>/<sandbox>/` in the unified hierarchy, or in each of the v1 controllers `memory`, `cpu`,
//! `pids` and `blkio` where the machine has only those. The VMM's limit strikes the VMM and leaves the keeper to tell of it.
//! Whatever is left in a group when it is removed is killed: the backstop behind every other way of ending.
//!
//! Deliberately absent: joining (keeper and VMM, of one thread each then, write themselves into the files that are named here).

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use atoll_domain::{InstanceId, SandboxId};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::KeeperError;

const MOUNT: &str = "/sys/fs/cgroup";
const BLKIO: &str = "blkio";
const V1: [&str; 4] = ["memory", "cpu", "pids", BLKIO];
/// What QEMU needs beside the guest's memory: translation cache, device models, thread stacks.
const VMM_OVERHEAD_MB: u64 = 320;
/// Threads of a QEMU: virtual CPUs, main loop, and a pool for disk requests.
const VMM_PIDS: u32 = 160;
const PERIOD_US: u64 = 100_000;
/// How long a killed process may stay in its group: the kernel frees a whole guest's memory first, on a machine that may have no CPU
/// to spare.
const EMPTY_LIMIT: Duration = Duration::from_secs(30);

/// What one VMM may take of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Virtual CPUs.
    pub vcpus: u32,
    /// The guest's memory, MiB.
    pub memory_mb: u32,
    /// What it may read, and write, of a disk; none for no limit.
    pub disk: Option<DiskRate>,
}

/// A rate of input and of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskRate {
    /// The whole disk, as `8:0`.
    pub device: String,
    /// Bytes a second, each way.
    pub bytes: u64,
}

impl DiskRate {
    /// The rate on the disk that a path lies on; none where that is no disk (tmpfs, btrfs, an overlay), or the machine's groups limit none.
    pub fn on(path: &Path, bytes: u64) -> Option<Self> {
        let controllers = fs::read_to_string(Path::new(MOUNT).join("cgroup.controllers"));
        let limited = controllers.map_or_else(
            |_| Path::new(MOUNT).join(BLKIO).join("cgroup.procs").exists(),
            |names| names.split_whitespace().any(|name| name == "io"),
        );
        let device = fs::metadata(path).ok().filter(|_| limited)?.dev();
        let (major, minor) = (libc::major(device), libc::minor(device));
        let entry = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
        // Limits are a whole disk's; a partition is a directory below it.
        let disk = if entry.join("partition").exists() { entry.parent()?.to_owned() } else { entry };
        let device = fs::read_to_string(disk.join("dev")).ok()?.trim().to_owned();
        Some(Self { device, bytes })
    }

    /// Sets it in a group of the hierarchy that has it. Somebody asked for it, so a refusal is an error.
    fn hold(&self, group: &Path) -> Result<(), KeeperError> {
        let Self { device, bytes } = self;
        let v1 = |way| (format!("blkio.throttle.{way}_bps_device"), format!("{device} {bytes}"));
        let unified = ("io.max".to_owned(), format!("{device} rbps={bytes} wbps={bytes}"));
        for (name, limit) in [unified, v1("read"), v1("write")] {
            let file = group.join(name);
            if file.exists() {
                fs::write(&file, limit).map_err(KeeperError::file("write", &file))?;
            }
        }
        Ok(())
    }
}

/// The groups of one sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroups {
    /// Files in which the keeper's one thread joins.
    pub keeper: Vec<PathBuf>,
    /// Files in which the VMM's first thread joins.
    pub vmm: Vec<PathBuf>,
}

/// Where a thread that writes `0` joins. In a hierarchy of v1 that is the thread's file: joined by the process's, the kernel first waits until
/// no CPU can be forking, which takes about 10 ms. In the unified one a thread cannot leave its process's group alone.
fn entry() -> &'static str {
    if unified() { "cgroup.procs" } else { "tasks" }
}

fn unified() -> bool {
    Path::new(MOUNT).join("cgroup.controllers").exists()
}

/// The directories that hold an instance's groups, one per hierarchy.
fn roots(instance: &InstanceId) -> Vec<PathBuf> {
    let name = format!("atoll-{instance}");
    if unified() {
        return vec![Path::new(MOUNT).join(name)];
    }
    let mounted = V1.iter().map(|controller| Path::new(MOUNT).join(controller));
    mounted.filter(|dir| dir.join("cgroup.procs").exists()).map(|dir| dir.join(&name)).collect()
}

/// Makes the groups and sets the VMM's limits.
///
/// # Errors
/// When a group cannot be made. A limit that the machine does not have is left out.
pub fn prepare(instance: &InstanceId, sandbox: &SandboxId, limits: &Limits) -> Result<Cgroups, KeeperError> {
    let mut groups = Cgroups { keeper: Vec::new(), vmm: Vec::new() };
    // Of the hierarchies of v1 the one of disks only if something is limited there.
    let unused = Path::new(MOUNT).join(BLKIO);
    for root in roots(instance).into_iter().filter(|root| limits.disk.is_some() || !root.starts_with(&unused)) {
        make(&root)?;
        let own = root.join(sandbox.as_str());
        make(&own)?;
        if unified() {
            for parent in [Path::new(MOUNT), &root, &own] {
                set(&parent.join("cgroup.subtree_control"), "+memory +cpu +pids");
                // On its own: a kernel without it would refuse the others, too.
                set(&parent.join("cgroup.subtree_control"), "+io");
            }
        }
        for (name, list) in [("keeper", &mut groups.keeper), ("vmm", &mut groups.vmm)] {
            make(&own.join(name))?;
            list.push(own.join(name).join(entry()));
        }
        limit(&own.join("vmm"), limits)?;
    }
    Ok(groups)
}

/// Sets what this hierarchy has; each file belongs to one controller.
fn limit(group: &Path, limits: &Limits) -> Result<(), KeeperError> {
    let Limits { vcpus, memory_mb, disk } = limits;
    let bytes = (u64::from(*memory_mb) + VMM_OVERHEAD_MB) << 20;
    // Half a CPU beside the virtual ones: the main loop works for them.
    let quota = u64::from(*vcpus) * PERIOD_US + PERIOD_US / 2;
    set(&group.join("memory.max"), &bytes.to_string());
    set(&group.join("memory.limit_in_bytes"), &bytes.to_string());
    set(&group.join("cpu.max"), &format!("{quota} {PERIOD_US}"));
    set(&group.join("cpu.cfs_quota_us"), &quota.to_string());
    set(&group.join("pids.max"), &(VMM_PIDS + vcpus).to_string());
    disk.as_ref().map_or(Ok(()), |rate| rate.hold(group))
}

/// Kills what is left in a sandbox's groups and removes them; none there is no error.
///
/// # Errors
/// When a group is still busy long after everything in it was killed.
pub fn remove(instance: &InstanceId, sandbox: &SandboxId) -> Result<(), KeeperError> {
    for root in roots(instance) {
        remove_tree(&root.join(sandbox.as_str()))?;
    }
    Ok(())
}

/// Removes the instance's own directories once no sandbox is left in them.
pub fn remove_instance(instance: &InstanceId) {
    for root in roots(instance) {
        // Busy or not there: then it stays, or is gone.
        let _ = fs::remove_dir(root);
    }
}

/// The sandboxes that have groups.
pub fn list(instance: &InstanceId) -> Vec<SandboxId> {
    let mut out = Vec::new();
    for root in roots(instance) {
        let Ok(entries) = fs::read_dir(root) else { continue };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        out.extend(names.filter_map(|name| name.parse::<SandboxId>().ok()));
    }
    out.sort();
    out.dedup();
    out
}

fn remove_tree(dir: &Path) -> Result<(), KeeperError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        other => other.map_err(KeeperError::file("read", dir))?,
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    let deadline = Instant::now() + EMPTY_LIMIT;
    loop {
        kill_all(dir);
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(KeeperError::file("remove", dir)(error)),
            // The kernel has not let go of the last process yet; there is nothing to be notified by in v1.
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn kill_all(dir: &Path) {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    for pid in text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 1) {
        // Gone meanwhile is what is wanted.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

fn make(dir: &Path) -> Result<(), KeeperError> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(KeeperError::file("create", dir)),
    }
}

/// Writes a control file if there is such a one.
fn set(path: &Path, value: &str) {
    if path.exists() {
        // A kernel without this control refuses it; `doctor` tells which limits hold.
        let _ = fs::write(path, value);
    }
}
