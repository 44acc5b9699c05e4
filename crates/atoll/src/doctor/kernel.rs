//! The host's kernel: version, control groups, and settings that decide what sandboxes share.
//!
//! How it works: reads `/proc` and `/sys`.
//!
//! Deliberately absent: CPU bugs one by one; the kernel's own verdict is counted.

use super::{Finding, read};

pub(super) fn examine() -> Vec<Finding> {
    vec![version(), cgroups(), yama(), smt(), ksm(), vulnerabilities()]
}

fn version() -> Finding {
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if (major, minor) >= (5, 10) {
        Finding::ok("kernel", release)
    } else {
        Finding::fail("kernel", release, "Atoll needs Linux 5.10 or newer (pidfd, clone into a control group)")
    }
}

fn cgroups() -> Finding {
    const NEEDED: [&str; 3] = ["memory", "cpu", "pids"];
    let unified = read("/sys/fs/cgroup/cgroup.controllers");
    let missing = |has: &dyn Fn(&str) -> bool| NEEDED.iter().filter(|name| !has(name)).copied().collect::<Vec<_>>();
    let (version, missing) = match &unified {
        Some(controllers) => {
            let list: Vec<&str> = controllers.split_whitespace().collect();
            ("v2", missing(&|name| list.contains(&name)))
        }
        None => ("v1", missing(&|name| std::path::Path::new("/sys/fs/cgroup").join(name).is_dir())),
    };
    if !missing.is_empty() {
        let remedy = "enable these controllers, or sandboxes run without these limits";
        return Finding::warn("cgroups", format!("{version}, without {}", missing.join(", ")), remedy);
    }
    match version {
        "v2" => Finding::ok("cgroups", "v2 with memory, cpu, pids"),
        _ => {
            let found = "v1 (joining its hierarchies costs some 14 ms a sandbox)";
            Finding::note("cgroups", found, "boot with systemd.unified_cgroup_hierarchy=1 for v2")
        }
    }
}

fn yama() -> Finding {
    match read("/proc/sys/kernel/yama/ptrace_scope").as_deref() {
        Some("0") => Finding::note(
            "yama",
            "ptrace_scope 0: a process may trace others of its uid",
            "sandboxes have uids of their own, so this is safe; sysctl kernel.yama.ptrace_scope=1 is the common setting",
        ),
        Some(scope) => Finding::ok("yama", format!("ptrace_scope {scope}")),
        None => Finding::note("yama", "not in this kernel", "nothing to do: the jail does not rest on it"),
    }
}

fn smt() -> Finding {
    match read("/sys/devices/system/cpu/smt/active").as_deref() {
        Some("1") => Finding::warn(
            "smt",
            "hyper-threads are on: two sandboxes may share a core's caches and buffers",
            "where tenants must not learn of each other, echo off > /sys/devices/system/cpu/smt/control (or boot with nosmt)",
        ),
        Some(_) => Finding::ok("smt", "off"),
        None => Finding::note("smt", "this kernel does not say", "look at `lscpu`: one thread per core is off"),
    }
}

fn ksm() -> Finding {
    match read("/sys/kernel/mm/ksm/run").as_deref() {
        Some("1") => Finding::note(
            "ksm",
            "the kernel merges equal pages of those who asked for it; Atoll's VMs do not",
            "nothing to do; echo 2 > /sys/kernel/mm/ksm/run if nothing else on this machine needs it",
        ),
        _ => Finding::ok("ksm", "off"),
    }
}

fn vulnerabilities() -> Finding {
    let entries = std::fs::read_dir("/sys/devices/system/cpu/vulnerabilities").into_iter().flatten().flatten();
    let vulnerable = |entry: &std::fs::DirEntry| {
        std::fs::read_to_string(entry.path()).is_ok_and(|text| text.starts_with("Vulnerable"))
    };
    let mut names: Vec<String> =
        entries.filter(vulnerable).filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    if names.is_empty() {
        return Finding::ok("cpu", "the kernel names no unmitigated vulnerability");
    }
    let remedy = "update the kernel and the CPU's microcode; see /sys/devices/system/cpu/vulnerabilities";
    Finding::warn("cpu", format!("vulnerable to {}", names.join(", ")), remedy)
}
