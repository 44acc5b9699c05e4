//! A hundred kills of the keeper leave no VMM.

use std::fs::File;
use std::time::{Duration, Instant};

use atoll_keeper::KeeperSpec;
use atoll_keeper::memory::Digest;
use atoll_keeper::spec::{Memory, Start, Verified};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::scene::{self, Scene};

const KILLS: u64 = 100;
/// A VMM must have been there, and stood still, so often; on a machine that became slower meanwhile that takes more kills.
const ALIVE: usize = 10;
const STOPPED: usize = 5;
const MOST_KILLS: u64 = 5 * KILLS;
const MEMORY_MB: u32 = 128;
const STATE: u64 = 8 << 30;
/// How long the first VMM may take to be there.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many microseconds pass here from a keeper's start to its VMM's: kills are spread around that moment.
fn until_there_is_a_vmm(scene: &Scene, spec: &KeeperSpec) -> u64 {
    let begun = Instant::now();
    let mut keeper = scene.start(spec, None);
    while scene.processes().iter().all(|pid| *pid == keeper.id()) {
        assert!(begun.elapsed() < PATIENCE, "there is no VMM");
        std::thread::yield_now();
    }
    let took = begun.elapsed();
    keeper.kill().unwrap();
    keeper.wait().unwrap();
    scene.wait_until_empty();
    u64::try_from(took.as_micros()).unwrap()
}

/// Whether a child of the keeper is the VMM by now. Before that it still has to ask for its death with the keeper, or to see that the
/// keeper is gone, and whoever stands still does neither: it runs no guest, and ends when it goes on, or with its control group.
fn has_executed(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("qemu"))
}

/// A real QEMU that waits for a snapshot; killed before, while and after it starts, every other time standing still.
pub(crate) fn no_vmm_outlives_its_keeper() {
    let scene = Scene::new(MEMORY_MB);
    let tree = atoll_keeper::tree::ensure(scene::cache().root()).unwrap();
    for name in ["base.raw", "cow.raw"] {
        File::create(scene.path(name)).unwrap().set_len(1 << 20).unwrap();
    }
    // A hole: the keeper reads it for a while before it sees that it is the wrong one, and ends the VMM.
    File::create(scene.path("state")).unwrap().set_len(STATE).unwrap();
    let image = scene.path("memory.raw");
    File::create(&image).unwrap().set_len(u64::from(MEMORY_MB) << 20).unwrap();
    let state = Verified { path: scene.path("state"), digest: Digest([0; 32]) };
    let start = Start::Restore { state, diff: None };
    let spec = scene.spec(tree, MEMORY_MB, Memory::File { path: image }, start);
    let window = 2 * until_there_is_a_vmm(&scene, &spec);
    let seed = u64::from(std::process::id());
    println!("seed {seed}, within {window} microseconds");
    let mut random = seed | 1;
    let (mut alive, mut stopped) = (0, 0);
    let mut round = 0;
    while round < KILLS || (round < MOST_KILLS && (alive <= ALIVE || stopped <= STOPPED)) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let mut keeper = scene.start(&spec, None);
        // The moment of the kill is what is tried here.
        std::thread::sleep(Duration::from_micros(random % window));
        let vmms: Vec<u32> = scene.processes().into_iter().filter(|pid| *pid != keeper.id()).collect();
        alive += usize::from(!vmms.is_empty());
        for vmm in vmms.iter().filter(|vmm| round % 2 == 1 && has_executed(**vmm)) {
            // It may be gone: the keeper ends a VMM whose state has the wrong digest.
            let done = kill(Pid::from_raw(i32::try_from(*vmm).unwrap()), Signal::SIGSTOP);
            stopped += usize::from(done.is_ok());
        }
        keeper.kill().unwrap();
        keeper.wait().unwrap();
        scene.wait_until_empty();
        round += 1;
    }
    println!("{round} kills, a VMM was there {alive} times and stood still {stopped} times: 0 left");
    assert!(alive > ALIVE && stopped > STOPPED, "the moments were all too early to try anything");
}
