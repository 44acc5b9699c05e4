//! `atoll doctor`: what on this machine helps or hinders, and what to do about it.
//!
//! How it works: each file here looks at one part of the machine and judges what it saw; a finding that is not well carries its
//! remedy. What is seen is read from the machine itself, so no running Atoll is needed; judging is done by pure functions. A failure makes the command end with 1, a warning
//! does not.
//!
//! Deliberately absent: changing anything.

mod clock;
mod disk;
mod kernel;
mod limits;
mod network;
mod vmm;

use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;

/// How a finding is to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing; nothing needs to be done.
    Note,
    /// Works, with a loss that is named.
    Warn,
    /// Sandboxes cannot run.
    Fail,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What was looked at.
    pub(crate) check: &'static str,
    pub(crate) level: Level,
    /// What was found.
    pub(crate) found: String,
    /// What to do about it; absent when nothing has to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, found: found.into(), remedy: None }
    }

    fn note(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, level: Level::Note, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn warn(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, level: Level::Warn, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn fail(check: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, level: Level::Fail, found: found.into(), remedy: Some(remedy.into()) }
    }
}

/// What is looked at.
#[derive(Debug)]
pub(crate) struct Subject {
    /// The data directory, whether it is there or not.
    pub(crate) data: PathBuf,
    /// The cache.
    pub(crate) cache: PathBuf,
    /// The configured address pool.
    pub(crate) address_pool: Option<String>,
}

/// Looks at everything; blocks for at most a few seconds.
pub(crate) fn examine(subject: &Subject) -> Vec<Finding> {
    let mut found = vec![Finding::ok("atoll", concat!("version ", env!("CARGO_PKG_VERSION")))];
    found.extend(kernel::examine());
    found.extend(vmm::examine(subject));
    found.extend(disk::examine(subject));
    found.extend(network::examine(subject));
    found.extend(clock::examine());
    found.extend(limits::examine());
    found
}

/// Whether sandboxes can run here.
pub(crate) fn healthy(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.level != Level::Fail)
}

/// For people: a line each, the remedy under it.
pub(crate) fn render(findings: &[Finding]) -> String {
    let mut out = String::new();
    for finding in findings {
        let mark = match finding.level {
            Level::Ok => "ok  ",
            Level::Note => "note",
            Level::Warn => "warn",
            Level::Fail => "FAIL",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{mark}  {:<12} {}", finding.check, finding.found);
        if let Some(remedy) = &finding.remedy {
            let _ = writeln!(out, "                   → {remedy}");
        }
    }
    out
}

/// A small file's text, trimmed; nothing when it is not there.
fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// Checks how a finding is to be taken and that its remedy says this; what is well has none.
#[cfg(test)]
fn judged(finding: &Finding, level: Level, remedy: &str) {
    assert_eq!(finding.level, level, "{finding:?}");
    match &finding.remedy {
        None => assert_eq!(level, Level::Ok, "{finding:?}"),
        Some(text) => assert!(level != Level::Ok && text.contains(remedy), "{finding:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_not_well_says_what_to_do() {
        let subject = Subject {
            data: "/nonexistent/data".into(),
            cache: "/nonexistent/cache".into(),
            address_pool: Some("x".into()),
        };
        let found = examine(&subject);
        for finding in &found {
            assert!(!finding.found.is_empty(), "{finding:?}");
            assert_eq!(finding.level == Level::Ok, finding.remedy.is_none(), "{finding:?}");
        }
        let named: Vec<&str> = found.iter().map(|finding| finding.check).collect();
        for check in [
            "atoll",
            "kernel",
            "vmm",
            "kvm",
            "reflink",
            "space",
            "addresses",
            "firewall",
            "yama",
            "smt",
            "ksm",
            "clock",
            "cgroups",
            "files",
            "processes",
            "memory",
        ] {
            assert!(named.contains(&check), "{check} is missing of {named:?}");
        }
        let version = found.iter().find(|finding| finding.check == "atoll").unwrap();
        assert!(version.found.contains(env!("CARGO_PKG_VERSION")), "{version:?}");
        let pool = found.iter().find(|finding| finding.check == "addresses").unwrap();
        assert_eq!(pool.level, Level::Fail);
        assert!(!healthy(&found));
    }

    #[test]
    fn the_remedy_stands_under_its_finding() {
        let text = render(&[Finding::ok("a", "well"), Finding::warn("b", "slow", "do this")]);
        assert_eq!(text, "ok    a            well\nwarn  b            slow\n                   → do this\n");
    }
}
