//! What went wrong in the system that the seed describes, tried on real VMs: each test bears the number of the weak point.
//!
//! How it works: what can be tried with a simulated host is in `atoll-control/tests`; here is what needs processes, memory and files.
//!
//! Deliberately absent: what other tests in this folder try already (a template that goes from under its copies, a failed pause).

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use atoll_control::ports::HostDriver as _;
use atoll_domain::Incarnation;
use atoll_domain::host::{HostError, HostSandboxState, PauseMode};
use atoll_domain::metrics::Tier;
use atoll_domain::ttl::{Lifetime, Limits};
use atoll_testkit::{eventually, ids};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::scene::{Sandbox, Scene};

fn resident(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_13_it_is_the_vmm_itself_that_is_sampled() {
    let scene = Scene::new().await;
    let sandbox = scene.create(|_| {}).await;
    let vmm = sandbox.host.inspect(sandbox.id.clone()).await.unwrap().vmm_pid.unwrap();
    sandbox.sh("(while :; do :; done) >/dev/null 2>&1 &").await;
    let busy = async || {
        let points = sandbox.host.metrics(sandbox.id.clone(), Tier::TenMinutes).await.unwrap();
        points.last().copied().filter(|point| point.cpu_pct > 20.0)
    };
    let point = eventually("a sample of a busy guest", busy).await;
    let now = resident(vmm);
    println!("{point:?}, {now} bytes resident");
    assert!(point.cpu_pct <= 100.0 && point.mem_bytes.abs_diff(now) < now / 2, "{point:?}, {now} bytes resident");
    drop(sandbox);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_15_memory_that_became_zero_stays_zero() {
    let scene = Scene::new().await;
    let mut sandbox = scene.create(|_| {}).await;
    let fill = |from: &str| {
        format!("dd if={from} of=/dev/shm/a bs=1M count=8 conv=notrunc 2>/dev/null; sha256sum < /dev/shm/a")
    };
    sandbox.sh(&fill("/dev/urandom")).await;
    sandbox.pause(PauseMode::Memory).await;
    sandbox.resume(PauseMode::Memory).await;
    // In the same pages: where the base, or the generation before, has other bytes.
    let zeroes = sandbox.sh(&fill("/dev/zero")).await;
    for _ in 0..2 {
        sandbox.pause(PauseMode::Memory).await;
        sandbox.resume(PauseMode::Memory).await;
        assert_eq!(sandbox.sh("sha256sum < /dev/shm/a").await, zeroes);
    }
    drop(sandbox);
    scene.end().await;
}

/// Files below a directory that this process holds open, and those of the given device and inode numbers.
fn open_below(dir: &Path, files: &BTreeSet<(u64, u64)>) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").unwrap().flatten() {
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        let known = std::fs::metadata(entry.path()).is_ok_and(|meta| files.contains(&(meta.dev(), meta.ino())));
        if known || target.starts_with(dir) {
            found.push(target.display().to_string());
        }
    }
    found
}

/// The memory files that a process holds.
fn memory_files(pid: u32) -> BTreeSet<(u64, u64)> {
    let of = |entry: std::fs::DirEntry| {
        let target = std::fs::read_link(entry.path()).ok()?;
        let meta = std::fs::metadata(entry.path()).ok()?;
        target.to_str()?.starts_with("/memfd:").then(|| (meta.dev(), meta.ino()))
    };
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten().filter_map(of).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_17_nothing_stays_open_when_it_is_over() {
    let scene = Scene::new().await;
    let sandbox = scene.create(|_| {}).await;
    sandbox.template("t1").await;
    let mut copy = copy(&scene, &sandbox).await.unwrap();
    let keeper = sandbox.host.inspect(copy.id.clone()).await.unwrap().keeper_pid.unwrap();
    let memory = memory_files(keeper);
    assert!(!memory.is_empty(), "the template's memory is shared");
    let root = scene.directory(&sandbox.id).parent().unwrap().parent().unwrap().to_owned();
    assert!(!open_below(Path::new("/nowhere"), &memory).is_empty(), "it is held while it is needed");
    for _ in 0..2 {
        copy.pause(PauseMode::Memory).await;
        copy.resume(PauseMode::Memory).await;
    }
    scene.host.drop_template("t1".into()).await.unwrap();
    for each in [copy, sandbox] {
        scene.host.destroy(each.call(), each.id.clone()).await.unwrap();
    }
    let closed = async || {
        let left = [root.join("sandboxes"), root.join("objects")].map(|dir| open_below(&dir, &memory)).concat();
        let journal = root.join("objects/journal").display().to_string();
        left.iter().all(|path| *path == journal).then_some(())
    };
    eventually("all files to be closed", closed).await;
    scene.end().await;
}

async fn copy(scene: &Scene, of: &Sandbox) -> Result<Sandbox, HostError> {
    let mut request = ids::request(&ids::sandbox());
    request.spec.snapshot = Some("t1".into());
    request.inherited = Some(of.request.secrets.token.clone());
    scene.host.create(ids::call(Incarnation::FIRST), request.clone()).await?;
    Ok(scene.again(request.spec.id.clone(), Incarnation::FIRST, request))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_30_a_create_that_failed_leaves_no_file() {
    let scene = Scene::new().await;
    let sandbox = scene.create(|_| {}).await;
    sandbox.template("t1").await;
    let object = scene.objects().remove(0);
    let good = std::fs::read(object.join("state")).unwrap();
    std::fs::write(object.join("state"), &good[..good.len() - 1]).unwrap();
    let before = scene.allocated();
    let failed = copy(&scene, &sandbox).await.map(drop);
    assert!(matches!(failed, Err(HostError::Damaged(_))), "{failed:?}");
    assert_eq!((scene.sandboxes(), scene.objects().len()), (1, 1));
    // What the running one wrote meanwhile is far from a whole disk.
    assert!(scene.allocated() < before + (8 << 20), "{} bytes, {before} before", scene.allocated());
    std::fs::write(object.join("state"), good).unwrap();
    drop(copy(&scene, &sandbox).await.unwrap());
    drop(sandbox);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defect_37_many_limits_at_once_wait_for_no_slow_one_and_are_not_all_at_once() {
    let scene = Scene::new().await;
    let mut all = Vec::new();
    for _ in 0..4 {
        all.push(scene.create(|_| {}).await);
    }
    let state = async |of: &Sandbox| of.host.inspect(of.id.clone()).await.map(|facts| facts.state);
    let slow = all.remove(0);
    let vmm = slow.host.inspect(slow.id.clone()).await.unwrap().vmm_pid.unwrap();
    let vmm = Pid::from_raw(i32::try_from(vmm).unwrap());
    kill(vmm, Signal::SIGSTOP).unwrap();
    // How many are being written: a state is there and no manifest.
    let (dirs, over) =
        (all.iter().map(|each| scene.directory(&each.id)).collect::<Vec<_>>(), Arc::new(AtomicBool::new(false)));
    let until = Arc::clone(&over);
    let most = std::thread::spawn(move || {
        let mut most = 0;
        while !until.load(Ordering::SeqCst) {
            most = most.max(dirs.iter().filter(|dir| is_being_written(dir)).count());
        }
        most
    });
    let limit = Limits { lifetime: Lifetime { timeout_sec: 1, ..Lifetime::default() }, revision: 1 };
    for each in std::iter::once(&slow).chain(&all) {
        each.host.set_lifetime(each.id.clone(), limit).await.unwrap();
    }
    for each in &all {
        let paused = async || (state(each).await == Ok(HostSandboxState::Paused)).then_some(());
        eventually("the others to be paused", paused).await;
    }
    let held = state(&slow).await;
    kill(vmm, Signal::SIGCONT).unwrap();
    over.store(true, Ordering::SeqCst);
    let most = most.join().unwrap();
    assert_ne!(held, Ok(HostSandboxState::Paused), "it stood still all the while");
    let permits = std::thread::available_parallelism().unwrap().get();
    assert!(most <= permits, "{most} were written at once by {permits} processors");
    // Stopped while one is being paused and others are being flattened.
    drop((slow, all));
    scene.end().await;
}

fn is_being_written(dir: &Path) -> bool {
    let generations = std::fs::read_dir(dir.join("generations")).into_iter().flatten().flatten();
    generations
        .map(|entry| entry.path())
        .any(|path| path.join("state").exists() && !path.join("manifest.json").exists())
}
