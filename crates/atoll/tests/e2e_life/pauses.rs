//! A sandbox that is paused goes on where it was.

use atoll_control::ports::HostDriver as _;
use atoll_domain::host::{HostError, HostSandboxState, PauseMode};
use atoll_domain::snapshot::MemoryReason;

use crate::scene::Scene;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_processes_and_files_go_on_over_two_pauses() {
    let scene = Scene::new().await;
    let mut sandbox = scene.create(|_| {}).await;
    sandbox.sh("head -c 3000000 /dev/urandom > /dev/shm/a; echo kept > /root/file; sync").await;
    sandbox.sh("(i=0; while sleep 0.05; do i=$((i+1)); echo $i > /dev/shm/new; mv /dev/shm/new /dev/shm/count; done) >/dev/null 2>&1 &").await;
    let before = sandbox
        .sh("sha256sum < /dev/shm/a; cat /root/file; cat /proc/sys/kernel/random/boot_id; cat /etc/machine-id")
        .await;
    let mut bytes = Vec::new();
    for round in 0..3 {
        let paused = sandbox.pause(PauseMode::Memory).await;
        println!("round {round}: {paused:?}");
        // Frozen in time or not is the machine's load; what is kept is whole either way.
        assert!(paused.generation.is_some());
        bytes.push(paused.bytes);
        let facts = sandbox.host.inspect(sandbox.id.clone()).await.unwrap();
        assert_eq!((facts.state, facts.vmm_pid), (HostSandboxState::Paused, None));
        let facts = sandbox.resume(PauseMode::Memory).await;
        println!("round {round}: {:?}", facts.phases);
        assert_eq!(facts.incarnation, sandbox.life);
        let after = sandbox
            .sh("sha256sum < /dev/shm/a; cat /root/file; cat /proc/sys/kernel/random/boot_id; cat /etc/machine-id")
            .await;
        assert_eq!(after, before);
        let count: u64 = sandbox.sh("cat /dev/shm/count").await.parse().unwrap();
        let grown = async || {
            let now: u64 = sandbox.sh("cat /dev/shm/count").await.parse().unwrap();
            (now > count).then_some(())
        };
        atoll_testkit::eventually("the counter to go on", grown).await;
    }
    drop(sandbox);
    scene.end().await;
    println!("{bytes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_alone_boots_again_and_says_so_before() {
    let scene = Scene::new().await;
    let mut sandbox = scene.create(|_| {}).await;
    let boot = sandbox.sh("echo kept > /root/file; cat /proc/sys/kernel/random/boot_id").await;
    let paused = sandbox.pause(PauseMode::Disk).await;
    assert_eq!(paused.generation, None);
    let refused = sandbox.host.resume(
        atoll_testkit::ids::call(atoll_domain::Incarnation(2)),
        sandbox.id.clone(),
        sandbox.resume_request(PauseMode::Memory),
    );
    assert_eq!(refused.await, Err(HostError::MemoryUnusable(MemoryReason::DiskOnly)));
    sandbox.resume(PauseMode::Disk).await;
    assert_eq!(sandbox.sh("cat /root/file").await, "kept");
    assert_ne!(sandbox.sh("cat /proc/sys/kernel/random/boot_id").await, boot);
    drop(sandbox);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flattened_sandbox_outlives_a_resume_that_is_refused() {
    let scene = Scene::new().await;
    let mut sandbox = scene.create(|_| {}).await;
    sandbox.sh("head -c 1000000 /dev/urandom > /dev/shm/a").await;
    let sum = sandbox.sh("sha256sum < /dev/shm/a").await;
    let first = sandbox.pause(PauseMode::Memory).await;
    let dir = scene.directory(&sandbox.id);
    let generation = dir.join("generations").join(first.generation.unwrap());
    let flat = || async { (!generation.join("diff").exists()).then_some(()) };
    atoll_testkit::eventually("base and diff to be one", flat).await;
    let state = generation.join("state");
    let whole = std::fs::read(&state).unwrap();
    let mut altered = whole.clone();
    altered[100] ^= 1;
    std::fs::write(&state, &altered).unwrap();
    let call = atoll_testkit::ids::call(atoll_domain::Incarnation(2));
    let refused = sandbox.host.resume(call, sandbox.id.clone(), sandbox.resume_request(PauseMode::Memory)).await;
    assert!(matches!(refused, Err(HostError::Damaged(_))), "{refused:?}");
    assert_eq!(sandbox.host.inspect(sandbox.id.clone()).await.unwrap().state, HostSandboxState::Paused);
    std::fs::write(&state, &whole).unwrap();
    sandbox.resume(PauseMode::Memory).await;
    assert_eq!(sandbox.sh("sha256sum < /dev/shm/a").await, sum);
    let second = sandbox.pause(PauseMode::Memory).await;
    println!("bytes: first {}, second {}", first.bytes, second.bytes);
    assert!(second.bytes < first.bytes / 2, "a pause costs what changed");
    drop(sandbox);
    scene.end().await;
}
