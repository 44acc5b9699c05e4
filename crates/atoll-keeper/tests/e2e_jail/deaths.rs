//! A hundred kills of the keeper leave no VMM.

use std::fs::{self, File};
use std::time::Duration;

use atoll_keeper::memory::Digest;
use atoll_keeper::spec::{Memory, Start, Verified};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::scene::{self, Scene};

const KILLS: u64 = 100;
const MEMORY_MB: u32 = 128;

/// A real QEMU that waits for a snapshot; killed before, while and after it starts, every other time standing still.
pub(crate) fn no_vmm_outlives_its_keeper() {
    let scene = Scene::new(MEMORY_MB);
    let tree = atoll_keeper::tree::ensure(scene::cache().root()).unwrap();
    for name in ["base.raw", "cow.raw"] {
        File::create(scene.path(name)).unwrap().set_len(1 << 20).unwrap();
    }
    fs::write(scene.path("state"), b"no state").unwrap();
    let image = scene.path("memory.raw");
    File::create(&image).unwrap().set_len(u64::from(MEMORY_MB) << 20).unwrap();
    let state = Verified { path: scene.path("state"), digest: Digest([0; 32]) };
    let start = Start::Restore { state, diff: None };
    let spec = scene.spec(tree, MEMORY_MB, Memory::File { path: image }, start);
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let mut random = seed | 1;
    let (mut alive, mut stopped) = (0, 0);
    for round in 0..KILLS {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let mut keeper = scene.start(&spec, None);
        // The moment of the kill is what is tried here.
        std::thread::sleep(Duration::from_micros(random % 90_000));
        let vmms: Vec<u32> = scene.processes().into_iter().filter(|pid| *pid != keeper.id()).collect();
        alive += usize::from(!vmms.is_empty());
        for vmm in vmms.iter().filter(|_| round % 2 == 1) {
            // It may be gone: the keeper ends a VMM whose state has the wrong digest.
            let done = kill(Pid::from_raw(i32::try_from(*vmm).unwrap()), Signal::SIGSTOP);
            stopped += usize::from(done.is_ok());
        }
        keeper.kill().unwrap();
        keeper.wait().unwrap();
        scene.wait_until_empty();
    }
    println!("{KILLS} kills, a VMM was there {alive} times and stood still {stopped} times: 0 left");
    assert!(alive > 10 && stopped > 5, "the moments were all too early to try anything");
}
