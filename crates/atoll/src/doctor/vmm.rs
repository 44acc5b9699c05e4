//! What runs the guests: QEMU, KVM, and the devices both need.
//!
//! How it works: QEMU is asked for its version with a deadline. Of KVM only a guest that really booted under it counts; that verdict
//! is made at Atoll's first start and lies in the cache.
//!
//! Deliberately absent: booting anything.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Finding, Subject};

const LIMIT: Duration = Duration::from_secs(5);
const NO_DEVICE: &str = "enable virtualisation in the firmware, or load kvm_intel or kvm_amd";
const INSTALL: &str = "apt-get install --no-install-recommends qemu-system-x86";

pub(super) fn examine(subject: &Subject) -> Vec<Finding> {
    let there = std::path::Path::new("/dev/kvm").exists();
    let tun_opens = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun").map(drop);
    vec![
        qemu(first_line(atoll_keeper::tree::PROGRAM, "--version")),
        kvm(there, atoll_host::cached_kvm_verdict(&subject.cache)),
        tun(tun_opens),
    ]
}

fn qemu(says: Option<String>) -> Finding {
    let Some(line) = says else {
        let found = format!("{} is not there or does not answer", atoll_keeper::tree::PROGRAM);
        return Finding::fail("vmm", found, INSTALL);
    };
    let version = line.split_whitespace().skip_while(|word| *word != "version").nth(1).unwrap_or("").to_owned();
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
    match (numbers.next(), numbers.next()) {
        (Some(8..), _) | (Some(7), Some(2..)) => Finding::ok("vmm", line),
        _ => Finding::fail("vmm", line, "Atoll needs QEMU 7.2 or newer"),
    }
}

fn kvm(there: bool, verdict: Option<(bool, String)>) -> Finding {
    match verdict {
        Some((true, reason)) => Finding::ok("kvm", format!("usable: {reason}")),
        Some((false, reason)) => Finding::warn(
            "kvm",
            format!("not usable, guests are emulated (10 to 20 times slower): {reason}"),
            if there {
                "a stock kernel must boot under it: use a machine with hardware or full nested virtualisation"
            } else {
                NO_DEVICE
            },
        ),
        None if there => {
            Finding::note("kvm", "/dev/kvm is there, not tried yet", "run `atoll up` once: it boots a guest under it")
        }
        None => Finding::warn("kvm", "no /dev/kvm: guests are emulated (10 to 20 times slower)", NO_DEVICE),
    }
}

fn tun(opens: std::io::Result<()>) -> Finding {
    match opens {
        Ok(()) => Finding::ok("tun", "/dev/net/tun opens"),
        Err(error) => Finding::fail("tun", format!("/dev/net/tun: {error}"), "modprobe tun, and run Atoll as root"),
    }
}

/// The first line that a program prints; nothing when it is not there or slow.
fn first_line(program: &str, argument: &str) -> Option<String> {
    let mut command = Command::new(program);
    command.arg(argument).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    let started = Instant::now();
    while child.try_wait().ok()?.is_none() {
        if started.elapsed() > LIMIT {
            // Killed or ended by itself meanwhile; both are an end.
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut text = String::new();
    child.stdout.take()?.take(4096).read_to_string(&mut text).ok()?;
    text.lines().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::super::{Level, judged};
    use super::*;

    #[test]
    fn a_vmm_that_is_missing_or_too_old_fails() {
        let says = |version: &str| qemu(Some(format!("QEMU emulator version {version} (Debian 1:7.2+dfsg-7)")));
        for good in ["7.2.22", "7.10.0", "8.0.0", "10.1.2"] {
            judged(&says(good), Level::Ok, "");
            assert!(says(good).found.contains(good));
        }
        for old in ["7.1.0", "6.2.0", "5", "", "garbage"] {
            judged(&says(old), Level::Fail, "7.2");
        }
        judged(&qemu(Some("something else".into())), Level::Fail, "7.2");
        judged(&qemu(None), Level::Fail, "apt-get install");
    }

    #[test]
    fn only_a_guest_that_booted_makes_kvm_usable() {
        let verdict = |usable, reason: &str| Some((usable, reason.to_owned()));
        judged(&kvm(true, verdict(true, "a guest booted under it")), Level::Ok, "");
        let poor = kvm(true, verdict(false, "KVM: entry failed"));
        judged(&poor, Level::Warn, "a stock kernel must boot under it");
        assert!(poor.found.contains("KVM: entry failed"), "{poor:?}");
        judged(&kvm(false, verdict(false, "no /dev/kvm")), Level::Warn, "firmware");
        judged(&kvm(true, None), Level::Note, "atoll up");
        judged(&kvm(false, None), Level::Warn, "kvm_intel");
    }

    #[test]
    fn without_taps_it_fails() {
        judged(&tun(Ok(())), Level::Ok, "");
        judged(&tun(Err(std::io::ErrorKind::NotFound.into())), Level::Fail, "modprobe tun");
    }

    #[test]
    fn a_program_that_is_not_there_says_nothing() {
        assert_eq!(first_line("/nowhere/qemu", "--version"), None);
        assert_eq!(first_line("/bin/echo", "QEMU emulator version 1").as_deref(), Some("QEMU emulator version 1"));
    }
}
