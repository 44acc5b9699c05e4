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
    use std::collections::HashSet;
    use std::net::Ipv4Addr;

    use atoll_domain::{Incarnation, SandboxId};
    use atoll_keeper::memory::Digest as KeeperDigest;
    use atoll_keeper::spec::{Jail, Machine, Memory, Network, Start, VERSION, Verified};

    use super::*;

    fn spec() -> KeeperSpec {
        KeeperSpec {
            version: VERSION,
            sandbox: SandboxId::from_random([7; 16]),
            incarnation: Incarnation::FIRST,
            machine: Machine {
                vcpus: 1,
                memory_mb: 256,
                accelerator: KeeperAccelerator::Tcg { tsc_khz: 2_100_000 },
                base: "/cache/base.ext4".into(),
                cow: "/data/one/cow.raw".into(),
                cow_limit: 0,
                memory: Memory::File { path: "/data/one/memory.raw".into() },
                start: Start::Cold {
                    kernel: "/cache/vmlinux".into(),
                    initrd: "/cache/initramfs".into(),
                    cmdline: String::new(),
                },
            },
            network: Network {
                netns: "/run/netns/one".into(),
                void_netns: "/run/netns/void".into(),
                tap: "tap0".into(),
                guest_mac: "02:fc:00:00:00:02".into(),
                gateway: Ipv4Addr::new(172, 16, 0, 1),
                resolvers: Vec::new(),
            },
            jail: Jail {
                tree: "/cache/tree".into(),
                program: "/usr/bin/qemu-system-x86_64".into(),
                uid: 2_000_000,
                keeper_cgroups: Vec::new(),
                vmm_cgroups: Vec::new(),
            },
        }
    }

    fn changed(change: impl FnOnce(&mut KeeperSpec)) -> Digest {
        let mut spec = spec();
        change(&mut spec);
        devices(&spec)
    }

    #[test]
    fn whatever_changes_the_virtual_machine_is_another_arrangement() {
        let all = [
            devices(&spec()),
            changed(|spec| spec.machine.vcpus = 2),
            changed(|spec| spec.machine.memory_mb = 512),
            // It has a clock chip beside the rest.
            changed(|spec| spec.machine.accelerator = KeeperAccelerator::Kvm),
            changed(|spec| spec.network.guest_mac = "02:fc:00:00:00:03".into()),
        ];
        assert_eq!(HashSet::from(all).len(), all.len(), "{all:?}");
    }

    #[test]
    fn another_sandbox_of_the_same_shape_has_the_same_arrangement_however_it_begins() {
        let cases: [(&str, fn(&mut KeeperSpec)); 8] = [
            ("name", |spec| spec.sandbox = SandboxId::from_random([8; 16])),
            ("directory", |spec| {
                spec.machine.cow = "/data/two/cow.raw".into();
                spec.machine.memory = Memory::Sealed;
            }),
            ("image", |spec| spec.machine.base = "/cache/other.ext4".into()),
            ("kernel", |spec| {
                let (kernel, initrd) = ("/other/vmlinux".into(), "/other/initramfs".into());
                spec.machine.start = Start::Cold { kernel, initrd, cmdline: "extra=1".into() };
            }),
            ("restore", |spec| {
                let state = Verified { path: "/data/two/state".into(), digest: KeeperDigest([1; 32]) };
                spec.machine.start = Start::Restore { state, diff: None };
            }),
            ("clock", |spec| spec.machine.accelerator = KeeperAccelerator::Tcg { tsc_khz: 3_000_000 }),
            ("network", |spec| {
                spec.network.netns = "/run/netns/two".into();
                spec.network.tap = "tap1".into();
            }),
            ("jail", |spec| {
                spec.jail.tree = "/other/tree".into();
                spec.jail.program = "/other/qemu".into();
                spec.jail.uid = 2_000_001;
            }),
        ];
        let one = devices(&spec());
        for (what, change) in cases {
            assert_eq!(changed(change), one, "{what}");
        }
    }

    #[test]
    fn a_version_is_the_word_after_version_and_nothing_else() {
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright (c)";
        assert_eq!(parse_version(debian).as_deref(), Some("7.2.22"));
        assert_eq!(parse_version("QEMU emulator version garbage"), None);
        assert_eq!(parse_version(""), None);
    }
}
