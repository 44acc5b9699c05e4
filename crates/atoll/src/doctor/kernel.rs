//! The host's kernel: version, control groups, and settings that decide what sandboxes share.
//!
//! How it works: reads `/proc` and `/sys`.
//!
//! Deliberately absent: CPU bugs one by one; the kernel's own verdict is counted.

use super::{Finding, read};

/// Controllers without which sandboxes run without limits.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

pub(super) fn examine() -> Vec<Finding> {
    let v1 = |name: &str| std::path::Path::new("/sys/fs/cgroup").join(name).is_dir();
    vec![
        version(&read("/proc/sys/kernel/osrelease").unwrap_or_default()),
        match read("/sys/fs/cgroup/cgroup.controllers") {
            Some(controllers) => cgroups_v2(&controllers),
            None => cgroups_v1(&CONTROLLERS.into_iter().filter(|name| v1(name)).collect::<Vec<_>>()),
        },
        yama(read("/proc/sys/kernel/yama/ptrace_scope").as_deref()),
        smt(read("/sys/devices/system/cpu/smt/active").as_deref()),
        ksm(read("/sys/kernel/mm/ksm/run").as_deref()),
        vulnerabilities(&vulnerable()),
    ]
}

fn version(release: &str) -> Finding {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if (major, minor) >= (5, 10) {
        Finding::ok("kernel", release)
    } else {
        let found = if release.is_empty() { "its version cannot be read" } else { release };
        Finding::fail("kernel", found, "Atoll needs Linux 5.10 or newer (pidfd, clone into a control group)")
    }
}

/// The controllers that are not there.
fn missing(there: &[&str]) -> Vec<&'static str> {
    CONTROLLERS.into_iter().filter(|name| !there.contains(name)).collect()
}

fn without(version: &str, missing: &[&str]) -> Finding {
    let remedy = "enable these controllers, or sandboxes run without these limits";
    Finding::warn("cgroups", format!("{version}, without {}", missing.join(", ")), remedy)
}

fn cgroups_v2(controllers: &str) -> Finding {
    let missing = missing(&controllers.split_whitespace().collect::<Vec<_>>());
    if missing.is_empty() { Finding::ok("cgroups", "v2 with memory, cpu, pids") } else { without("v2", &missing) }
}

fn cgroups_v1(hierarchies: &[&str]) -> Finding {
    let missing = missing(hierarchies);
    if !missing.is_empty() {
        return without("v1", &missing);
    }
    let found = "v1 (joining its hierarchies costs some 14 ms a sandbox)";
    Finding::note("cgroups", found, "boot with systemd.unified_cgroup_hierarchy=1 for v2")
}

fn yama(scope: Option<&str>) -> Finding {
    match scope {
        Some("0") => Finding::note(
            "yama",
            "ptrace_scope 0: a process may trace others of its uid",
            "sandboxes have uids of their own, so this is safe; sysctl kernel.yama.ptrace_scope=1 is the common setting",
        ),
        Some(scope) => Finding::ok("yama", format!("ptrace_scope {scope}")),
        None => Finding::note("yama", "not in this kernel", "nothing to do: the jail does not rest on it"),
    }
}

fn smt(active: Option<&str>) -> Finding {
    match active {
        Some("1") => Finding::warn(
            "smt",
            "hyper-threads are on: two sandboxes may share a core's caches and buffers",
            "where tenants must not learn of each other, echo off > /sys/devices/system/cpu/smt/control (or boot with nosmt)",
        ),
        Some(_) => Finding::ok("smt", "off"),
        None => Finding::note("smt", "this kernel does not say", "look at `lscpu`: one thread per core is off"),
    }
}

fn ksm(run: Option<&str>) -> Finding {
    match run {
        Some("1") => Finding::note(
            "ksm",
            "the kernel merges equal pages of those who asked for it; Atoll's VMs do not",
            "nothing to do; echo 2 > /sys/kernel/mm/ksm/run if nothing else on this machine needs it",
        ),
        _ => Finding::ok("ksm", "off"),
    }
}

/// What the kernel itself calls vulnerable.
fn vulnerable() -> Vec<String> {
    let entries = std::fs::read_dir("/sys/devices/system/cpu/vulnerabilities").into_iter().flatten().flatten();
    let vulnerable = |entry: &std::fs::DirEntry| {
        std::fs::read_to_string(entry.path()).is_ok_and(|text| text.starts_with("Vulnerable"))
    };
    let mut names: Vec<String> =
        entries.filter(vulnerable).filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

fn vulnerabilities(names: &[String]) -> Finding {
    if names.is_empty() {
        return Finding::ok("cpu", "the kernel names no unmitigated vulnerability");
    }
    let remedy = "update the kernel and the CPU's microcode; see /sys/devices/system/cpu/vulnerabilities";
    Finding::warn("cpu", format!("vulnerable to {}", names.join(", ")), remedy)
}

#[cfg(test)]
mod tests {
    use super::super::{Level, judged};
    use super::*;

    #[test]
    fn a_kernel_that_is_too_old_fails() {
        for good in ["5.10.0-8-amd64", "6.1.0-18-cloud-amd64", "10.0"] {
            judged(&version(good), Level::Ok, "");
        }
        for old in ["5.9.16", "4.19.0-26-amd64", "3", "", "rubbish"] {
            judged(&version(old), Level::Fail, "5.10");
        }
    }

    #[test]
    fn limits_that_no_control_group_keeps_are_named() {
        judged(&cgroups_v2("cpuset cpu io memory hugetlb pids"), Level::Ok, "");
        let poor = cgroups_v2("cpuset cpu io");
        judged(&poor, Level::Warn, "enable these controllers");
        assert_eq!(poor.found, "v2, without memory, pids");
        judged(&cgroups_v1(&CONTROLLERS), Level::Note, "unified_cgroup_hierarchy");
        let poor = cgroups_v1(&["cpu", "memory"]);
        judged(&poor, Level::Warn, "enable these controllers");
        assert_eq!(poor.found, "v1, without pids");
    }

    #[test]
    fn what_sandboxes_share_is_told() {
        judged(&yama(Some("1")), Level::Ok, "");
        judged(&yama(Some("0")), Level::Note, "ptrace_scope=1");
        judged(&yama(None), Level::Note, "nothing to do");
        judged(&smt(Some("0")), Level::Ok, "");
        judged(&smt(Some("1")), Level::Warn, "smt/control");
        judged(&smt(None), Level::Note, "lscpu");
        judged(&ksm(Some("0")), Level::Ok, "");
        judged(&ksm(Some("2")), Level::Ok, "");
        judged(&ksm(None), Level::Ok, "");
        judged(&ksm(Some("1")), Level::Note, "ksm/run");
        judged(&vulnerabilities(&[]), Level::Ok, "");
        let poor = vulnerabilities(&["mds".into(), "retbleed".into()]);
        judged(&poor, Level::Warn, "microcode");
        assert!(poor.found.contains("mds, retbleed"), "{poor:?}");
    }
}
