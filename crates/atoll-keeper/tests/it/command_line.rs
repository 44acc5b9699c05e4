//! QEMU's command line, word for word: a snapshot is restored only into the machine that it was taken of.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use atoll_domain::{Incarnation, SandboxId};
use atoll_keeper::KeeperSpec;
use atoll_keeper::memory::Digest;
use atoll_keeper::qemu::args::{Descriptors, arguments};
use atoll_keeper::spec::{Accelerator, Jail, Machine, Memory, Network, Start, VERSION, Verified};

const FDS: Descriptors = Descriptors { tap: 10, qmp: 11, console: 12, base: 13, cow: 14, memory: 15, state: None };

fn spec(accelerator: Accelerator, start: Start) -> KeeperSpec {
    KeeperSpec {
        version: VERSION,
        sandbox: SandboxId::from_random([7; 16]),
        incarnation: Incarnation::FIRST,
        machine: Machine {
            vcpus: 2,
            memory_mb: 512,
            accelerator,
            base: "/cache/base.ext4".into(),
            cow: "/data/cow.raw".into(),
            cow_limit: 0,
            memory: Memory::File { path: "/data/memory.raw".into() },
            start,
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
            program: PathBuf::from("/usr/bin/qemu-system-x86_64"),
            uid: 2_000_000,
            keeper_cgroups: Vec::new(),
            vmm_cgroups: Vec::new(),
        },
    }
}

fn cold() -> Start {
    Start::Cold { kernel: "/cache/vmlinux".into(), initrd: "/cache/initramfs".into(), cmdline: "extra=1".into() }
}

fn restore() -> Start {
    let state = Verified { path: "/data/state".into(), digest: Digest([1; 32]) };
    Start::Restore { state, diff: None }
}

/// An option and its value on one line each.
fn lines(words: &[String]) -> String {
    words.join("\n").replace("\n-", "\n\n-")
}

#[test]
fn the_command_line_of_a_cold_boot_is_this_one() {
    let tcg = Accelerator::Tcg { tsc_khz: 2_100_000 };
    insta::assert_snapshot!("cold_tcg", lines(&arguments(&spec(tcg, cold()), &FDS)));
    insta::assert_snapshot!("cold_kvm", lines(&arguments(&spec(Accelerator::Kvm, cold()), &FDS)));
}

#[test]
fn the_command_line_of_a_restore_is_this_one_and_the_same_machine() {
    let tcg = Accelerator::Tcg { tsc_khz: 2_100_000 };
    let fds = Descriptors { state: Some(16), ..FDS };
    let restored = arguments(&spec(tcg, restore()), &fds);
    insta::assert_snapshot!("restore_tcg", lines(&restored));
    // Everything before the kernel is the machine; a restore begins it in another way and changes nothing of it.
    let booted = arguments(&spec(tcg, cold()), &FDS);
    let machine = booted.iter().take_while(|word| *word != "-kernel").collect::<Vec<_>>();
    assert_eq!(machine, restored.iter().take_while(|word| *word != "-S").collect::<Vec<_>>());
    assert!(restored.iter().all(|word| word != "-kernel" && word != "-append"));
}
