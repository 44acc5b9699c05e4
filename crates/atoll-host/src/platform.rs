//! The machine that this host gives to guests, as a manifest names it.
//!
//! How it works: the VMM's version is asked once; the arrangement of devices is the digest of QEMU's own command line for a sandbox of
//! this shape, without what names the sandbox or begins a boot, so that a change of the arguments is a change of the machine.
//!
//! Deliberately absent: the comparison (`atoll_domain::snapshot::judge`).

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use atoll_domain::host::HostError;
use atoll_domain::snapshot::{Accelerator, Digest, Platform, VmmKind};
use atoll_keeper::KeeperSpec;
use atoll_keeper::qemu::args::{Descriptors, TCG_CPU, arguments};
use atoll_keeper::spec::Accelerator as KeeperAccelerator;

const LIMIT: Duration = Duration::from_secs(10);

/// Words of the command line that differ from sandbox to sandbox or from start to start, each with its value.
const OWN: [&str; 5] = ["-name", "-kernel", "-initrd", "-append", "-incoming"];

/// QEMU's version, as `7.2.22`; asks the program.
pub(crate) fn vmm_version() -> Result<String, HostError> {
    let missing = |error: std::io::Error| HostError::Failed(format!("QEMU does not say its version: {error}"));
    let mut command = Command::new("/usr/bin/qemu-system-x86_64");
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(missing)?;
    let begun = Instant::now();
    while child.try_wait().map_err(missing)?.is_none() {
        if begun.elapsed() > LIMIT {
            // It may have ended this very moment.
            let _ = child.kill();
            let _ = child.wait();
            return Err(HostError::Timeout { what: "QEMU's version".into(), limit_ms: 10_000 });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut text = String::new();
    if let Some(out) = child.stdout.take() {
        out.take(4096).read_to_string(&mut text).map_err(missing)?;
    }
    parse_version(&text).ok_or_else(|| HostError::Failed("QEMU's version is of an unknown form".into()))
}

fn parse_version(text: &str) -> Option<String> {
    let version = text.split_whitespace().skip_while(|word| *word != "version").nth(1)?;
    version.split('.').all(|part| part.parse::<u32>().is_ok()).then(|| version.to_owned())
}

/// What a guest of this spec runs on here.
pub(crate) fn platform(vmm_version: &str, tsc_khz: u64, spec: &KeeperSpec) -> Platform {
    let (accelerator, cpu_model) = match spec.machine.accelerator {
        KeeperAccelerator::Tcg { .. } => (Accelerator::Tcg, TCG_CPU.to_owned()),
        KeeperAccelerator::Kvm => (Accelerator::Kvm, host_cpu()),
    };
    let series: Vec<&str> = vmm_version.split('.').take(2).collect();
    Platform {
        arch: std::env::consts::ARCH.into(),
        vmm: VmmKind::Qemu,
        vmm_version: vmm_version.to_owned(),
        vmm_series: series.join("."),
        accelerator,
        cpu_model,
        tsc_khz,
        devices: devices(spec),
    }
}

fn devices(spec: &KeeperSpec) -> Digest {
    let fds = Descriptors { tap: 3, qmp: 4, console: 5, base: 6, cow: 7, memory: 8, state: None };
    let mut hasher = blake3::Hasher::new();
    let mut words = arguments(spec, &fds).into_iter().skip(1);
    while let Some(word) = words.next() {
        if OWN.contains(&word.as_str()) {
            words.next();
        } else if word != "-S" {
            hasher.update(&(word.len() as u64).to_le_bytes());
            hasher.update(word.as_bytes());
        }
    }
    Digest(*hasher.finalize().as_bytes())
}

/// `-cpu host` is what this processor is.
fn host_cpu() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let of = |name: &str| {
        let line = text.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let flags = blake3::hash(of("flags").as_bytes()).to_hex();
    format!("host {} {}", of("model name"), &flags[..16])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_the_word_after_version_and_nothing_else() {
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright (c)";
        assert_eq!(parse_version(debian).as_deref(), Some("7.2.22"));
        assert_eq!(parse_version("QEMU emulator version garbage"), None);
        assert_eq!(parse_version(""), None);
    }
}
