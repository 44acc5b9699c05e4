//! A manifest says all that it is signed for, and what does not fit is told before a guest runs.

use atoll_domain::Shape;
use atoll_domain::snapshot::{
    Accelerator, Digest, FORMAT, Manifest, MemoryReason, Origin, Part, Parts, Platform, Refused, Verdict, VmmKind,
    judge,
};
use proptest::prelude::*;

fn part(byte: u8) -> Part {
    Part { bytes: u64::from(byte) * 4096, digest: Digest([byte; 32]) }
}

fn manifest() -> Manifest {
    Manifest {
        format: FORMAT,
        id: "g1".into(),
        created_at: 1,
        shape: Shape { vcpus: 1, memory_mb: 256, disk_mb: 5120 },
        template: "base".into(),
        platform: Platform {
            arch: "x86_64".into(),
            vmm: VmmKind::Qemu,
            vmm_version: "7.2.22".into(),
            vmm_series: "7.2".into(),
            accelerator: Accelerator::Tcg,
            cpu_model: "max".into(),
            tsc_khz: 2_500_000,
            devices: Digest([9; 32]),
        },
        origin: Origin {
            kernel: Digest([1; 32]),
            base: Digest([2; 32]),
            agent: Digest([3; 32]),
            agent_version: "1".into(),
        },
        parts: Parts { state: Some(part(4)), memory_base: Some(part(5)), memory_diff: None, disk: Some(part(6)) },
        quiesced: true,
        copyable: true,
        key: "k".into(),
    }
}

/// Every way to change one field.
fn changes() -> Vec<(&'static str, fn(&mut Manifest))> {
    vec![
        ("format", |m| m.format += 1),
        ("id", |m| m.id.push('x')),
        ("created_at", |m| m.created_at += 1),
        ("vcpus", |m| m.shape.vcpus += 1),
        ("memory_mb", |m| m.shape.memory_mb += 1),
        ("disk_mb", |m| m.shape.disk_mb += 1),
        ("template", |m| m.template.push('x')),
        ("arch", |m| m.platform.arch.push('x')),
        ("vmm", |m| m.platform.vmm = VmmKind::Firecracker),
        ("vmm_version", |m| m.platform.vmm_version.push('1')),
        ("vmm_series", |m| m.platform.vmm_series.push('1')),
        ("accelerator", |m| m.platform.accelerator = Accelerator::Kvm),
        ("cpu_model", |m| m.platform.cpu_model.push('x')),
        ("tsc_khz", |m| m.platform.tsc_khz += 1),
        ("devices", |m| m.platform.devices.0[0] ^= 1),
        ("kernel", |m| m.origin.kernel.0[0] ^= 1),
        ("base", |m| m.origin.base.0[0] ^= 1),
        ("agent", |m| m.origin.agent.0[0] ^= 1),
        ("agent_version", |m| m.origin.agent_version.push('1')),
        ("state", |m| m.parts.state = None),
        ("state's digest", |m| m.parts.state = Some(part(7))),
        ("memory_base", |m| m.parts.memory_base = None),
        ("memory_diff", |m| m.parts.memory_diff = Some(part(8))),
        ("base as diff", |m| (m.parts.memory_base, m.parts.memory_diff) = (m.parts.memory_diff, m.parts.memory_base)),
        ("disk", |m| m.parts.disk.as_mut().unwrap().bytes += 1),
        ("quiesced", |m| m.quiesced = false),
        ("copyable", |m| m.copyable = false),
        ("key", |m| m.key.push('x')),
        ("text moved", |m| (m.template, m.id) = ("bas".into(), "g1e".into())),
    ]
}

#[test]
fn a_signature_covers_every_field() {
    let mut seen = vec![manifest().signing_input()];
    for (what, change) in changes() {
        let mut changed = manifest();
        change(&mut changed);
        let input = changed.signing_input();
        assert!(!seen.contains(&input), "{what} is not covered");
        seen.push(input);
    }
}

#[test]
fn what_the_host_has_newest_of_kernel_image_and_agent_plays_no_part() {
    let here = manifest().platform;
    for (what, change) in changes() {
        let mut changed = manifest();
        change(&mut changed);
        let verdict = judge(&changed, &here);
        let expected = match what {
            "format" => Verdict::Refused(Refused::Newer { was: FORMAT + 1, newest: FORMAT }),
            "arch" => Verdict::Refused(Refused::Arch { was: "x86_64x".into(), is: "x86_64".into() }),
            "state" => Verdict::MemoryUnusable(MemoryReason::DiskOnly),
            "vmm" => Verdict::MemoryUnusable(MemoryReason::Vmm {
                was: "firecracker 7.2.22".into(),
                is: "qemu 7.2.22".into(),
            }),
            "vmm_series" => {
                Verdict::MemoryUnusable(MemoryReason::Vmm { was: "qemu 7.2.22".into(), is: "qemu 7.2.22".into() })
            }
            "accelerator" => Verdict::MemoryUnusable(MemoryReason::Accelerator { was: "kvm".into(), is: "tcg".into() }),
            "cpu_model" => Verdict::MemoryUnusable(MemoryReason::CpuModel { was: "maxx".into(), is: "max".into() }),
            "devices" => Verdict::MemoryUnusable(MemoryReason::Devices),
            _ => Verdict::Usable,
        };
        assert_eq!(verdict, expected, "{what}");
    }
}

#[test]
fn only_what_stood_still_and_may_be_copied_is_copied() {
    for (quiesced, copyable) in [(true, true), (true, false), (false, true), (false, false)] {
        assert_eq!(Manifest { quiesced, copyable, ..manifest() }.may_be_copied(), quiesced && copyable);
    }
}

proptest! {
    #[test]
    fn a_measured_tsc_rate_may_err_and_another_one_is_told(khz in 1_000_000u64..5_000_000, ppm in 0..5000u64) {
        let mut here = manifest().platform;
        here.tsc_khz = khz + khz * ppm / 1_000_000;
        let mut there = manifest();
        there.platform.tsc_khz = khz;
        match judge(&there, &here) {
            Verdict::Usable => prop_assert!(ppm <= 252),
            verdict => {
                prop_assert!(ppm > 248);
                prop_assert_eq!(verdict, Verdict::MemoryUnusable(MemoryReason::TscRate { was: khz, is: here.tsc_khz }));
            }
        }
    }

    #[test]
    fn a_digest_reads_back_and_nothing_else_is_one(bytes in any::<[u8; 32]>(), text in ".{0,70}") {
        prop_assert_eq!(Digest::try_from(Digest(bytes).to_string()), Ok(Digest(bytes)));
        if let Ok(digest) = Digest::try_from(text.clone()) {
            prop_assert_eq!(digest.to_string(), text);
        }
    }
}
