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
    let number = |path: &str| read(path).and_then(|text| text.parse::<u64>().ok()).unwrap_or(u64::MAX);
    let most = number("/proc/sys/kernel/pid_max").min(number("/proc/sys/kernel/threads-max"));
    vec![
        files(getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(_, hard)| hard)),
        processes(most),
        memory(&read("/proc/meminfo").unwrap_or_default()),
        swap(&read("/proc/swaps").unwrap_or_default()),
    ]
}

fn files(hard: u64) -> Finding {
    let found = format!("{hard} open files a process at most");
    if hard >= WANTED_FILES {
        Finding::ok("files", found)
    } else {
        Finding::warn("files", found, "raise it: LimitNOFILE=65536 in the unit, or `ulimit -Hn 65536`")
    }
}

fn processes(most: u64) -> Finding {
    let found = format!("{most} processes and threads at most");
    if most >= WANTED_PROCESSES {
        Finding::ok("processes", found)
    } else {
        Finding::warn("processes", found, "sysctl kernel.pid_max=4194304 kernel.threads-max=131072")
    }
}

fn memory(meminfo: &str) -> Finding {
    let mb = |name: &str| {
        let line = meminfo.lines().find(|line| line.starts_with(name))?;
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

fn swap(swaps: &str) -> Finding {
    let devices: Vec<&str> = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
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

#[cfg(test)]
mod tests {
    use super::super::{Level, judged};
    use super::*;

    #[test]
    fn limits_that_sandboxes_would_reach_are_told() {
        judged(&files(WANTED_FILES), Level::Ok, "");
        judged(&files(1024), Level::Warn, "LimitNOFILE");
        judged(&processes(WANTED_PROCESSES), Level::Ok, "");
        judged(&processes(4096), Level::Warn, "kernel.pid_max");
    }

    #[test]
    fn without_memory_for_one_sandbox_it_fails() {
        let free = |mb: u64| format!("MemTotal:  8388608 kB\nMemFree: 1 kB\nMemAvailable:   {} kB\n", mb * 1024);
        judged(&memory(&free(1024)), Level::Ok, "");
        judged(&memory(&free(1023)), Level::Fail, "free or add");
        assert!(memory(&free(700)).found.contains("700 of 8192 MiB"));
        judged(&memory("rubbish"), Level::Fail, "free or add");
    }

    #[test]
    fn swap_that_anybody_can_read_later_is_named() {
        const HEAD: &str = "Filename\t\t\t\tType\t\tSize\tUsed\tPriority\n";
        judged(&swap(""), Level::Ok, "");
        judged(&swap(HEAD), Level::Ok, "");
        judged(&swap(&format!("{HEAD}/dev/zram0 partition 1 0 5\n/dev/dm-1 partition 1 0 4\n")), Level::Ok, "");
        let plain = swap(&format!("{HEAD}/dev/zram0 partition 1 0 5\n/dev/vda2 partition 1 0 4\n"));
        judged(&plain, Level::Note, "encrypt swap");
        assert!(plain.found.contains("/dev/vda2"), "{plain:?}");
    }
}
