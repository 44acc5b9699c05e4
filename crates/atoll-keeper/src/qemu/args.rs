//! QEMU's command line.
//!
//! How it works: a pure function from spec and descriptor numbers to words; a golden test holds it, because a snapshot can be
//! restored only into the same machine. Everything of the sandbox is a descriptor; kernel and initramfs are paths in the jail's
//! tree, because QEMU knows no descriptors for them.
//!
//! Deliberately absent: options that a user could set.

use std::os::fd::RawFd;

use crate::KeeperSpec;
use crate::spec::{Accelerator, Start};
use crate::tree::{BIOS, INITRD, KERNEL};

/// The processor that is emulated: all that QEMU can, but for the "fast" string moves, which it carries out byte by byte: without
/// them kernel and C library copy words.
pub const TCG_CPU: &str = "max,-erms,-fsrm";
/// Words of the kernel's command line that every boot has.
const CMDLINE: &str =
    "console=ttyS0 quiet noreplace-smp cryptomgr.notests=1 random.trust_cpu=on panic=-1 reboot=t pci=off";

/// The numbers under which the VMM finds what it works on.
#[derive(Debug, Clone, Copy)]
pub struct Descriptors {
    /// The TAP.
    pub tap: RawFd,
    /// The control channel.
    pub qmp: RawFd,
    /// The serial console.
    pub console: RawFd,
    /// The base image, opened read-only.
    pub base: RawFd,
    /// The sandbox's disk, opened for both.
    pub cow: RawFd,
    /// The memory file.
    pub memory: RawFd,
    /// The state of the devices, for a restore.
    pub state: Option<RawFd>,
}

/// The command line, argv[0] first.
pub fn arguments(spec: &KeeperSpec, fds: &Descriptors) -> Vec<String> {
    let machine = &spec.machine;
    let memory = machine.memory_mb;
    let (accelerator, cpu, devices, clock) = match machine.accelerator {
        Accelerator::Tcg { tsc_khz } => (
            "tcg,thread=multi,tb-size=64",
            TCG_CPU,
            "pit=off,pic=off,",
            format!(" tsc_early_khz={tsc_khz} tsc=reliable"),
        ),
        Accelerator::Kvm => ("kvm", "host", "pit=off,pic=off,rtc=on,", String::new()),
    };
    let Descriptors { tap, qmp, console, base, cow, memory: ram, state: _ } = fds;
    let mut out = vec![spec.jail.program.to_string_lossy().into_owned()];
    let mut option = |name: &str, value: String| {
        out.push(format!("-{name}"));
        if !value.is_empty() {
            out.push(value);
        }
    };
    option("name", spec.sandbox.to_string());
    option("accel", accelerator.into());
    option("cpu", cpu.into());
    option("smp", machine.vcpus.to_string());
    option("m", memory.to_string());
    option(
        "object",
        format!("memory-backend-file,id=mem,mem-path=/proc/self/fd/{ram},size={memory}M,share=off,merge=off"),
    );
    option("M", format!("microvm,acpi=on,{devices}suppress-vmdesc=on,mem-merge=off,memory-backend=mem"));
    option("bios", BIOS.into());
    for flag in ["nodefaults", "no-user-config", "no-reboot"] {
        option(flag, String::new());
    }
    option("display", "none".into());
    option("chardev", format!("socket,id=console,fd={console}"));
    option("serial", "chardev:console".into());
    option("chardev", format!("socket,id=qmp,fd={qmp}"));
    option("mon", "chardev=qmp,mode=control".into());
    option("global", "virtio-mmio.force-legacy=false".into());
    option("global", "migration.send-configuration=off".into());
    option("add-fd", format!("fd={base},set=1"));
    option(
        "drive",
        "if=none,id=base,file=/dev/fdset/1,format=raw,readonly=on,auto-read-only=off,file.locking=off".into(),
    );
    option("device", "virtio-blk-device,drive=base,serial=base".into());
    option("add-fd", format!("fd={cow},set=2"));
    option(
        "drive",
        "if=none,id=cow,file=/dev/fdset/2,format=raw,auto-read-only=off,file.locking=off,cache=writeback,discard=unmap,werror=stop,rerror=report".into(),
    );
    option("device", "virtio-blk-device,drive=cow,serial=cow".into());
    option("netdev", format!("tap,id=net,fd={tap}"));
    option("device", format!("virtio-net-device,netdev=net,mac={}", spec.network.guest_mac));
    option("device", "virtio-rng-device".into());
    option("sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny".into());
    match &machine.start {
        Start::Cold { cmdline, .. } => {
            let extra = if cmdline.is_empty() { String::new() } else { format!(" {cmdline}") };
            option("kernel", KERNEL.into());
            option("initrd", INITRD.into());
            option("append", format!("{CMDLINE}{clock}{extra}"));
        }
        // The kernel is in the memory already. Without -S the guest would run before it is asked to.
        Start::Restore { .. } => {
            option("S", String::new());
            option("incoming", "defer".into());
        }
    }
    out
}
