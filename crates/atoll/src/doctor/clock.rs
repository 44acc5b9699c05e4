//! The host's clocks, which guests are set by.
//!
//! How it works: emulated guests count the host's TSC, so its frequency must not change; wall time is compared with nothing, only
//! whether something keeps it.
//!
//! Deliberately absent: asking a time server.

use std::path::Path;

use super::{Finding, read};

pub(super) fn examine() -> Vec<Finding> {
    vec![tsc(), wall()]
}

fn tsc() -> Finding {
    let flags = read("/proc/cpuinfo").unwrap_or_default();
    let flags = flags.lines().find(|line| line.starts_with("flags")).unwrap_or_default().to_owned();
    let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
    let source = read("/sys/devices/system/clocksource/clocksource0/current_clocksource").unwrap_or_default();
    if has("constant_tsc") && has("nonstop_tsc") {
        return Finding::ok("clock", format!("constant TSC, clock source {source}"));
    }
    Finding::warn(
        "clock",
        format!("the TSC's rate may change (clock source {source}): clocks of emulated guests drift"),
        "use a machine with constant_tsc and nonstop_tsc, or one whose KVM works",
    )
}

fn wall() -> Finding {
    let kept = ["/run/systemd/timesync/synchronized", "/run/chrony/chronyd.pid", "/run/chronyd.pid", "/run/ntpd.pid"];
    match kept.iter().find(|path| Path::new(path).exists()) {
        Some(path) => Finding::ok("time", format!("kept in step ({path})")),
        None => Finding::note(
            "time",
            "nothing seen that keeps the wall clock in step",
            "install systemd-timesyncd or chrony, unless this machine's hypervisor does it",
        ),
    }
}
