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
const INSTALL: &str = "apt-get install --no-install-recommends qemu-system-x86";

pub(super) fn examine(subject: &Subject) -> Vec<Finding> {
    vec![qemu(), kvm(subject), tun()]
}

fn qemu() -> Finding {
    match first_line(atoll_keeper::tree::PROGRAM, "--version") {
        Some(line) => {
            let version = line.split_whitespace().skip_while(|word| *word != "version").nth(1).unwrap_or("").to_owned();
            let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap_or(0));
            match (numbers.next(), numbers.next()) {
                (Some(8..), _) | (Some(7), Some(2..)) => Finding::ok("vmm", line),
                _ => Finding::fail("vmm", line, "Atoll needs QEMU 7.2 or newer"),
            }
        }
        None => {
            Finding::fail("vmm", format!("{} is not there or does not answer", atoll_keeper::tree::PROGRAM), INSTALL)
        }
    }
}

fn kvm(subject: &Subject) -> Finding {
    let there = std::path::Path::new("/dev/kvm").exists();
    match atoll_host::cached_kvm_verdict(&subject.cache) {
        Some((true, reason)) => Finding::ok("kvm", format!("usable: {reason}")),
        Some((false, reason)) => Finding::warn(
            "kvm",
            format!("not usable, guests are emulated (10 to 20 times slower): {reason}"),
            if there {
                "a stock kernel must boot under it: use a machine with hardware or full nested virtualisation"
            } else {
                "enable virtualisation in the firmware, or load kvm_intel or kvm_amd"
            },
        ),
        None if there => {
            Finding::note("kvm", "/dev/kvm is there, not tried yet", "run `atoll up` once: it boots a guest under it")
        }
        None => Finding::warn(
            "kvm",
            "no /dev/kvm: guests are emulated (10 to 20 times slower)",
            "enable virtualisation in the firmware, or load kvm_intel or kvm_amd",
        ),
    }
}

fn tun() -> Finding {
    match std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Finding::ok("tun", "/dev/net/tun opens"),
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
