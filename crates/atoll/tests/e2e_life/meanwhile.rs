//! What is asked, or happens, while something else is under way with a sandbox.
//!
//! How it works: a template is made to take a while ([`crate::still`]); what its guest is given by another Atoll, and what that one was doing when
//! it died, is written into the sandbox's journal, as it would have been.
//!
//! Deliberately absent: deaths at each step (`kill_matrix`).

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use atoll_control::ports::HostDriver as _;
use atoll_domain::Incarnation;
use atoll_domain::host::{HostError, HostSandboxState, MakeTemplate, PauseMode};
use atoll_host::OnExit;
use atoll_testkit::{eventually, ids};
use nix::sys::signal::Signal;

use crate::embedded;
use crate::scene::{GOLDEN_BUDGET_MB, Sandbox, Scene};
use crate::still::{signal, state_written, template_that_takes};

async fn state(sandbox: &Sandbox) -> HostSandboxState {
    sandbox.host.inspect(sandbox.id.clone()).await.unwrap().state
}

/// There is an object that was not there before.
async fn one_more_than(scene: &Scene, known: usize) {
    eventually("a template to be begun", async || (scene.objects().len() > known).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_and_a_resume_wait_for_the_template_that_is_made() {
    let scene = Scene::new().await;
    let mut sandbox = scene.create(|_| {}).await;
    sandbox.sh("echo kept > /dev/shm/file").await;
    let pause = async {
        state_written(&scene, &[]).await;
        sandbox.host.pause(sandbox.call(), sandbox.id.clone(), PauseMode::Memory).await
    };
    let (_, paused) = tokio::join!(template_that_takes(&sandbox, &scene, "t1", Duration::from_secs(1)), pause);
    assert_eq!(state(&sandbox).await, HostSandboxState::Paused);
    if !paused.unwrap().quiesced {
        // Of such a one there is no template.
        sandbox.resume(PauseMode::Memory).await;
        sandbox.pause_quiesced().await;
    }
    let next = Incarnation(sandbox.life.0 + 1);
    let resume = async {
        one_more_than(&scene, 1).await;
        sandbox.host.resume(ids::call(next), sandbox.id.clone(), sandbox.resume_request(PauseMode::Memory)).await
    };
    let (_, resumed) = tokio::join!(sandbox.template("t2"), resume);
    resumed.unwrap();
    sandbox.life = next;
    assert_eq!(sandbox.sh("cat /dev/shm/file").await, "kept");
    assert_eq!(scene.objects().len(), 2);
    drop(sandbox);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_that_pauses_waits_for_what_is_being_copied_or_resumed() {
    let scene = Scene::new().await;
    let (copied, mut resumed) = (scene.create(|_| {}).await, scene.create(|_| {}).await);
    resumed.pause(PauseMode::Memory).await;
    resumed.life = Incarnation(resumed.life.0 + 1);
    let stop = async {
        state_written(&scene, &[]).await;
        let begun = async {
            eventually("the resume to begin", async || {
                (state(&resumed).await != HostSandboxState::Paused).then_some(())
            })
            .await;
            scene.host.0.shutdown(OnExit::Pause).await;
        };
        let (host, request) = (&resumed.host, resumed.resume_request(PauseMode::Memory));
        tokio::join!(begun, host.resume(resumed.call(), resumed.id.clone(), request)).1.unwrap();
    };
    tokio::join!(template_that_takes(&copied, &scene, "t1", Duration::from_secs(2)), stop);
    let kept = [copied, resumed].map(|sandbox| (sandbox.id, sandbox.life, sandbox.request));
    let scene = scene.restart_with(OnExit::Keep, "", GOLDEN_BUDGET_MB, embedded::GUEST).await;
    for (id, life, request) in kept {
        let mut sandbox = scene.again(id, life, request);
        eventually("it to be settled", async || (state(&sandbox).await == HostSandboxState::Paused).then_some(()))
            .await;
        sandbox.resume(PauseMode::Memory).await;
        assert_eq!(sandbox.sh("echo here").await, "here");
    }
    scene.end().await;
}

/// Changes a word of a journal into another of the same length.
fn write_over(journal: &Path, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let text = fs::read_to_string(journal).unwrap();
    let at = text.rfind(from).unwrap_or_else(|| panic!("no {from} in {text}"));
    let file = fs::OpenOptions::new().write(true).open(journal).unwrap();
    file.write_all_at(to.as_bytes(), at as u64).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_of_a_vm_is_of_the_machine_that_it_was_started_on() {
    let scene = Scene::new().await;
    let mut sandbox = scene.create(|_| {}).await;
    sandbox.sh("echo kept > /root/file; sync").await;
    // As if QEMU had been replaced, and Atoll started again, while it ran.
    write_over(&scene.directory(&sandbox.id).join("journal"), "\"vmm_series\":\"7.", "\"vmm_series\":\"0.");
    sandbox.pause(PauseMode::Memory).await;
    let call = ids::call(Incarnation(sandbox.life.0 + 1));
    let refused = sandbox.host.resume(call, sandbox.id.clone(), sandbox.resume_request(PauseMode::Memory)).await;
    assert!(matches!(refused, Err(HostError::MemoryUnusable(_))), "{refused:?}");
    sandbox.life = Incarnation(sandbox.life.0 + 1);
    sandbox.resume(PauseMode::Disk).await;
    assert_eq!(sandbox.sh("cat /root/file").await, "kept");
    drop(sandbox);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_template_is_made_of_a_device_state_that_was_spoiled() {
    let scene = Scene::new().await;
    let mut sandbox = scene.create(|_| {}).await;
    sandbox.pause_quiesced().await;
    let generations = fs::read_dir(scene.directory(&sandbox.id).join("generations")).unwrap();
    let file = generations.map(|entry| entry.unwrap().path().join("state")).next().unwrap();
    let whole = fs::read(&file).unwrap();
    let mut spoiled = whole.clone();
    spoiled[whole.len() / 2] ^= 1;
    fs::write(&file, &spoiled).unwrap();
    let order = MakeTemplate { template: "t1".into() };
    let refused = sandbox.host.make_template(sandbox.call(), sandbox.id.clone(), order).await;
    assert!(matches!(refused, Err(HostError::Damaged(_))), "{refused:?}");
    assert_eq!((scene.objects().len(), state(&sandbox).await), (0, HostSandboxState::Paused));
    fs::write(&file, &whole).unwrap();
    sandbox.template("t1").await;
    drop(sandbox);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_whose_agent_is_silent_when_it_is_taken_over_runs_and_thaws_later() {
    let scene = Scene::new().await;
    let sandbox = scene.create(|_| {}).await;
    let (journal, vmm) = (scene.directory(&sandbox.id).join("journal"), sandbox.host.inspect(sandbox.id.clone()).await);
    let vmm = vmm.unwrap().vmm_pid;
    // As if the Atoll before had died while it made a template.
    let mut file = fs::OpenOptions::new().append(true).open(&journal).unwrap();
    file.write_all(b"{\"step\":\"copying\",\"object\":\"none\"}\n").unwrap();
    signal(vmm, Signal::SIGSTOP);
    let (id, life, request) = (sandbox.id, sandbox.life, sandbox.request);
    drop(sandbox.host);
    let scene = scene.restart_with(OnExit::Keep, "", GOLDEN_BUDGET_MB, embedded::GUEST).await;
    let sandbox = scene.again(id, life, request);
    eventually("it to be taken over", async || (state(&sandbox).await == HostSandboxState::Running).then_some(()))
        .await;
    let repaired =
        || fs::read_to_string(&journal).unwrap().trim_end().rsplit('\n').next().unwrap().contains("repaired");
    assert!(!repaired(), "nobody has answered");
    signal(vmm, Signal::SIGCONT);
    assert_eq!(sandbox.sh("echo here").await, "here");
    eventually("the journal to say so", async || repaired().then_some(())).await;
    drop(sandbox);
    scene.end().await;
}
