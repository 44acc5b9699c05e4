//! What stands still for a moment, or is slow, goes on as if nothing had been; and what stays still goes when it is to.
//!
//! How it works: a keeper or a VMM is stopped by a signal at the step that is to take long, and continued when enough time has passed.
//!
//! Deliberately absent: a slow disk. What waits for one is tried on a keeper that is played (`atoll-host`).

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use atoll_control::ports::HostDriver as _;
use atoll_domain::host::{HostError, HostSandboxState, PauseMode};
use atoll_domain::ttl::{Lifetime, Limits, OnExpiry};
use atoll_guest_client::PrepareRequest;
use atoll_testkit::eventually;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::scene::{Sandbox, Scene};

pub(crate) fn signal(pid: Option<u32>, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid.unwrap()).unwrap()), signal).unwrap();
}

async fn passed(since: Instant, time: Duration) {
    eventually("time to pass", async || (since.elapsed() > time).then_some(())).await;
}

fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()
}

/// How far the guest's clock is from the host's.
async fn behind(sandbox: &Sandbox) -> Duration {
    let before = now();
    let guest: u128 = sandbox.sh("date +%s%N").await.parse().unwrap();
    // Read at some moment after `before`.
    Duration::from_nanos(u64::try_from(before.saturating_sub(guest)).unwrap())
}

/// Waits until a device state is written into an object that is not among those: from then on a template's sandbox does not run on
/// because its agent is late.
pub(crate) async fn state_written(scene: &Scene, known: &[std::path::PathBuf]) {
    let state = |path: &std::path::PathBuf| std::fs::metadata(path.join("state")).is_ok_and(|meta| meta.len() > 0);
    let written = async || scene.objects().iter().any(|path| !known.contains(path) && state(path)).then_some(());
    eventually("the state to be written", written).await;
}

/// The VM stands still when its state is written: the keeper is stopped there, and with it what the VM waits for.
pub(crate) async fn template_that_takes(sandbox: &Sandbox, scene: &Scene, name: &str, time: Duration) -> Duration {
    let known = scene.objects();
    let slow = async {
        state_written(scene, &known).await;
        let keeper = sandbox.host.inspect(sandbox.id.clone()).await.unwrap().keeper_pid;
        signal(keeper, Signal::SIGSTOP);
        passed(Instant::now(), time).await;
        signal(keeper, Signal::SIGCONT);
    };
    let (facts, ()) = tokio::join!(sandbox.template(name), slow);
    Duration::from_micros(facts.stood_still_micros)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clock_is_right_after_a_template_however_long_it_took() {
    let scene = Scene::new().await;
    let sandbox = scene.create(|_| {}).await;
    let mut stood_still = Duration::ZERO;
    for round in 0..5 {
        stood_still = template_that_takes(&sandbox, &scene, &format!("t{round}"), Duration::from_secs(3)).await;
        if stood_still > Duration::from_secs(2) {
            break;
        }
    }
    let behind = behind(&sandbox).await;
    println!("stood still for {stood_still:?}, {behind:?} behind");
    assert!(stood_still > Duration::from_secs(2), "it never stood still: {stood_still:?}");
    assert!(behind < stood_still / 2, "{behind:?} behind after {stood_still:?}");
    drop(sandbox);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn user_code_thaws_after_a_failed_pause_though_its_agent_was_silent_for_long() {
    let scene = Scene::new().await;
    let sandbox = scene.create(|_| {}).await;
    let vmm = sandbox.host.inspect(sandbox.id.clone()).await.unwrap().vmm_pid;
    // No generation can be made where a file stands.
    let in_the_way = scene.directory(&sandbox.id).join("generations");
    std::fs::write(&in_the_way, "").unwrap();
    let freeze = PrepareRequest { sync: false, freeze: true, timeout_ms: 5000 };
    assert!(sandbox.guest().prepare_snapshot(&freeze).await.unwrap().frozen);
    signal(vmm, Signal::SIGSTOP);
    let pause = sandbox.host.pause(sandbox.call(), sandbox.id.clone(), PauseMode::Memory);
    let silent = async {
        passed(Instant::now(), Duration::from_secs(7)).await;
        signal(vmm, Signal::SIGCONT);
    };
    let (paused, ()) = tokio::join!(pause, silent);
    assert!(paused.is_err(), "{paused:?}");
    assert_eq!(sandbox.host.inspect(sandbox.id.clone()).await.unwrap().state, HostSandboxState::Running);
    let thawed = async || {
        let start = atoll_guest_client::StartRequest { cmd: "true".into(), ..Default::default() };
        sandbox.guest().start(&start).await.ok().map(drop)
    };
    eventually("user code to go on", thawed).await;
    assert_eq!(sandbox.sh("echo here").await, "here");
    std::fs::remove_file(&in_the_way).unwrap();
    drop(sandbox);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_keeps_it_alive_by_itself_and_a_paused_one_goes_at_its_deadline() {
    let scene = Scene::new().await;
    let idle = Lifetime { timeout_sec: 4, ..Lifetime::default() };
    let sandbox = scene.create(|request| request.spec.lifetime = idle).await;
    let begun = Instant::now();
    // Nobody tells the host of a use: it sees the streams itself.
    while begun.elapsed() < Duration::from_secs(9) {
        sandbox.guest().stat("/root", None).await.unwrap();
    }
    let state = async || Some(sandbox.host.inspect(sandbox.id.clone()).await.unwrap().state);
    assert_eq!(state().await, Some(HostSandboxState::Running));
    eventually("nobody to use it for its timeout", async || {
        state().await.filter(|state| *state == HostSandboxState::Paused)
    })
    .await;
    let end_at = i64::try_from(now() / 1000).unwrap() + 1_000_000;
    let to_end = Lifetime { end_at: Some(end_at), on_expiry: OnExpiry::Destroy, ..Lifetime::default() };
    let to_end = Limits { lifetime: to_end, revision: 1 };
    sandbox.host.set_lifetime(sandbox.id.clone(), to_end).await.unwrap();
    let gone = async || (sandbox.host.inspect(sandbox.id.clone()).await == Err(HostError::NotFound)).then_some(());
    eventually("it to go at its deadline", gone).await;
    drop(sandbox);
    scene.end().await;
}
