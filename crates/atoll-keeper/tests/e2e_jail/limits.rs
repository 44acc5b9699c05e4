//! What a VMM may take, as the kernel has it.
//!
//! How it works: the groups of a sandbox are made, with a rate on the disk below this program; then the groups' own files are read back.
//!
//! Deliberately absent: how fast a limited program is; that is the kernel's.

use std::path::{Path, PathBuf};

use atoll_domain::{InstanceId, SandboxId};
use atoll_keeper::cgroup::{self, DiskRate, Limits};

const RATE: u64 = 5 << 20;

/// The files of this machine's hierarchies that hold the limits, and what must stand in them.
fn controls(instance: &InstanceId, sandbox: &SandboxId, disk: Option<&DiskRate>) -> Vec<(PathBuf, String)> {
    let root = Path::new("/sys/fs/cgroup");
    let own = format!("atoll-{instance}/{sandbox}/vmm");
    let memory = (448_u64 << 20).to_string();
    let unified = root.join("cgroup.controllers").exists();
    let (mut out, io) = if unified {
        let file = |name: &str| root.join(&own).join(name);
        let limits = vec![
            (file("memory.max"), memory),
            (file("cpu.max"), "250000 100000".into()),
            (file("pids.max"), "162".into()),
        ];
        (limits, file("io.max"))
    } else {
        let file = |controller: &str, name: &str| root.join(controller).join(&own).join(name);
        let limits = vec![
            (file("memory", "memory.limit_in_bytes"), memory),
            (file("cpu", "cpu.cfs_quota_us"), "250000".into()),
            (file("pids", "pids.max"), "162".into()),
        ];
        (limits, file("blkio", "blkio.throttle.write_bps_device"))
    };
    if let Some(DiskRate { device, bytes }) = disk {
        let wanted = if unified {
            format!("{device} rbps={bytes} wbps={bytes} riops=max wiops=max")
        } else {
            format!("{device} {bytes}")
        };
        out.push((io, wanted));
    }
    out
}

/// A guest with two processors and 128 MiB; 320 MiB are QEMU's own.
pub(crate) fn limits_stand_in_the_groups() {
    let instance = InstanceId::from_random([7, 7, 7]);
    let sandbox = SandboxId::from_random([9; 16]);
    let program = std::env::current_exe().unwrap();
    let disk = DiskRate::on(&program, RATE);
    if disk.is_none() {
        println!("no disk lies below {}: its rate cannot be limited here", program.display());
    }
    let controls = controls(&instance, &sandbox, disk.as_ref());
    let made = cgroup::prepare(&instance, &sandbox, &Limits { vcpus: 2, memory_mb: 128, disk });
    let found: Vec<_> = controls.iter().map(|(file, _)| std::fs::read_to_string(file)).collect();
    cgroup::remove(&instance, &sandbox).unwrap();
    cgroup::remove_instance(&instance);
    made.unwrap();
    for ((file, wanted), found) in controls.iter().zip(found) {
        assert_eq!(found.unwrap_or_else(|e| panic!("{}: {e}", file.display())).trim(), wanted, "{}", file.display());
    }
}
