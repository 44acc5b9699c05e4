//! The host's clocks, which guests are set by.
//!
//! How it works: emulated guests count the host's TSC, so its frequency must not change; wall time is compared with nothing, only
//! whether something keeps it.
//!
//! Deliberately absent: asking a time server.

use std::path::Path;

use super::{Finding, read};

/// What is there as long as something keeps the wall clock in step.
const KEEPERS: [&str; 4] =
    ["/run/systemd/timesync/synchronized", "/run/chrony/chronyd.pid", "/run/chronyd.pid", "/run/ntpd.pid"];

pub(super) fn examine() -> Vec<Finding> {
    let cpuinfo = read("/proc/cpuinfo").unwrap_or_default();
    let source = read("/sys/devices/system/clocksource/clocksource0/current_clocksource").unwrap_or_default();
    vec![tsc(&cpuinfo, &source), wall(KEEPERS.into_iter().find(|path| Path::new(path).exists()))]
}

fn tsc(cpuinfo: &str, source: &str) -> Finding {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |flag: &str| flags.split_whitespace().any(|word| word == flag);
    if has("constant_tsc") && has("nonstop_tsc") {
        return Finding::ok("clock", format!("constant TSC, clock source {source}"));
    }
    Finding::warn(
        "clock",
        format!("the TSC's rate may change (clock source {source}): clocks of emulated guests drift"),
        "use a machine with constant_tsc and nonstop_tsc, or one whose KVM works",
    )
}

fn wall(kept_by: Option<&str>) -> Finding {
    match kept_by {
        Some(path) => Finding::ok("time", format!("kept in step ({path})")),
        None => Finding::note(
            "time",
            "nothing seen that keeps the wall clock in step",
            "install systemd-timesyncd or chrony, unless this machine's hypervisor does it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Level, judged};
    use super::*;

    #[test]
    fn a_clock_whose_rate_may_change_is_told() {
        let flags = |flags: &str| format!("processor\t: 0\nflags\t\t: fpu tsc {flags} msr\nbogomips\t: 1\n");
        judged(&tsc(&flags("constant_tsc nonstop_tsc"), "tsc"), Level::Ok, "");
        for poor in ["", "constant_tsc", "nonstop_tsc", "constant_tsc_x nonstop_tsc_x"] {
            judged(&tsc(&flags(poor), "hpet"), Level::Warn, "constant_tsc");
        }
        assert!(tsc("", "hpet").found.contains("hpet"));
    }

    #[test]
    fn a_clock_that_nobody_keeps_is_told() {
        judged(&wall(Some("/run/chronyd.pid")), Level::Ok, "");
        judged(&wall(None), Level::Note, "chrony");
    }
}
