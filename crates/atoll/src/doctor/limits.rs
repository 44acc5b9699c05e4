//! Limits that are reached before memory is: descriptors, processes, memory itself.
//!
//! How it works: compares the machine's limits with what one sandbox takes.
//!
//! Deliberately absent: raising them.

use nix::sys::resource::{Resource, getrlimit};

use super::{Finding, read};

/// Atoll's own, and a dozen for each of a few hundred sandboxes.
const WANTED_FILES: u64 = 8192;
/// A keeper, a VMM and its threads for each of a thousand sandboxes.
const WANTED_PROCESSES: u64 = 16_384;
/// One default sandbox and its VMM.
const NEEDED_MB: u64 = 1024;

pub(super) fn examine() -> Vec<Finding> {
    vec![files(), processes(), memory(), swap()]
}

fn files() -> Finding {
    let hard = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(_, hard)| hard);
    let found = format!("{hard} open files a process at most");
    if hard >= WANTED_FILES {
        Finding::ok("files", found)
    } else {
        Finding::warn("files", found, "raise it: LimitNOFILE=65536 in the unit, or `ulimit -Hn 65536`")
    }
}

fn processes() -> Finding {
    let number = |path: &str| read(path).and_then(|text| text.parse::<u64>().ok()).unwrap_or(u64::MAX);
    let most = number("/proc/sys/kernel/pid_max").min(number("/proc/sys/kernel/threads-max"));
    let found = format!("{most} processes and threads at most");
    if most >= WANTED_PROCESSES {
        Finding::ok("processes", found)
    } else {
        Finding::warn("processes", found, "sysctl kernel.pid_max=4194304 kernel.threads-max=131072")
    }
}

fn memory() -> Finding {
    let text = read("/proc/meminfo").unwrap_or_default();
    let mb = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kb| kb / 1024)
    };
    let (total, available) = (mb("MemTotal:").unwrap_or(0), mb("MemAvailable:").unwrap_or(0));
    let found = format!("{available} of {total} MiB available");
    if available >= NEEDED_MB {
        Finding::ok("memory", found)
    } else {
        Finding::fail("memory", found, "a default sandbox takes 512 MiB and its VMM some 200: free or add some")
    }
}

fn swap() -> Finding {
    let text = read("/proc/swaps").unwrap_or_default();
    let devices: Vec<&str> = text.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    let plain = |device: &&str| !device.contains("/zram") && !device.contains("/dm-");
    match devices.iter().find(|device| plain(device)) {
        Some(device) => Finding::note(
            "swap",
            format!("guest memory may be written to {device}"),
            "encrypt swap, use zram, or switch it off, where what guests hold must not reach a disk",
        ),
        None => Finding::ok("swap", "guest memory is not written to an unencrypted swap"),
    }
}
