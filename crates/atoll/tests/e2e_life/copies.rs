//! Templates of sandboxes, goldens, and what is made from them.
//!
//! How it works: programs and files in the guests tell a copy from what it is a copy of; what is left on the disk is counted.
//!
//! Deliberately absent: when goldens are made again ([`crate::goldens`]), and what a copy must not share ([`crate::forks`]).

use std::sync::atomic::{AtomicBool, Ordering};

use atoll_control::ports::HostDriver as _;
use atoll_domain::host::{HostError, PauseMode};
use atoll_host::OnExit;

use crate::scene::{Scene, another_agent};

const WHO: &str = "cat /etc/machine-id /proc/sys/kernel/hostname; cat /proc/sys/kernel/random/boot_id";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_of_a_running_sandbox_makes_others_that_are_not_it() {
    let scene = Scene::new().await;
    let sandbox = scene.create(|_| {}).await;
    sandbox
        .sh("head -c 2000000 /dev/urandom > /dev/shm/a; echo kept > /root/file; sync; sleep 1000 >/dev/null 2>&1 &")
        .await;
    let sum = sandbox.sh("sha256sum < /dev/shm/a").await;
    let who = sandbox.sh(WHO).await;
    let facts = sandbox.template("t1").await;
    println!("{facts:?}");
    assert_eq!(sandbox.sh("sha256sum < /dev/shm/a").await, sum, "it runs on");
    assert_eq!(sandbox.template("t1").await.bytes, facts.bytes, "asked again, it is there");
    let token = sandbox.request.secrets.token.clone();
    let from = |id: &str, token: &atoll_domain::host::GuestToken| {
        let (id, token) = (id.to_owned(), token.clone());
        move |request: &mut atoll_domain::host::CreateSandbox| {
            request.spec.snapshot = Some(id);
            request.inherited = Some(token);
        }
    };
    let one = scene.create(from("t1", &token)).await;
    let two = scene.create(from("t1", &token)).await;
    for copy in [&one, &two] {
        assert_eq!(copy.sh("sha256sum < /dev/shm/a; pgrep -c sleep; cat /root/file").await, format!("{sum}\n1\nkept"));
        let other = copy.sh(WHO).await;
        for (mine, its) in other.lines().zip(who.lines()).take(2) {
            assert_ne!(mine, its, "a copy is another machine");
        }
    }
    for own in ["head -c 16 /dev/urandom | od -An -tx1", "cat /run/atoll/generation"] {
        assert_ne!(one.sh(own).await, two.sh(own).await, "nothing of it is shared: {own}");
    }
    // The template goes; what rests on it goes on.
    scene.host.drop_template("t1".into()).await.unwrap();
    assert_eq!(scene.objects().len(), 1, "held by the copies");
    let mut one = one;
    one.pause(PauseMode::Memory).await;
    one.resume(PauseMode::Memory).await;
    assert_eq!(one.sh("sha256sum < /dev/shm/a").await, sum);
    for copy in [one, two] {
        scene.host.destroy(copy.call(), copy.id.clone()).await.unwrap();
    }
    assert_eq!(scene.objects().len(), 0, "gone with the last that rests on it");
    let missing = {
        let mut request = atoll_testkit::ids::request(&atoll_testkit::ids::sandbox());
        request.spec.snapshot = Some("t1".into());
        scene.host.create(atoll_testkit::ids::call(atoll_domain::Incarnation::FIRST), request).await
    };
    assert!(matches!(missing, Err(HostError::UnknownTemplate { .. })), "{missing:?}");
    drop(sandbox);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_is_reached_while_a_template_is_made_of_it() {
    let scene = Scene::new().await;
    let sandbox = scene.create(|_| {}).await;
    let stands = AtomicBool::new(false);
    let template = async {
        sandbox.template("t1").await;
        stands.store(true, Ordering::SeqCst);
    };
    let uses = async {
        let mut done = 0;
        while !stands.load(Ordering::SeqCst) {
            // A connection of its own each time, as every request has.
            sandbox.guest().stat("/root", None).await.unwrap();
            done += 1;
        }
        done
    };
    let ((), done) = tokio::join!(template, uses);
    assert!(done > 1, "{done}");
    scene.host.drop_template("t1".into()).await.unwrap();
    drop(sandbox);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_create_restores_a_golden_and_outlives_it() {
    let scene = Scene::with_goldens("1x256").await;
    atoll_testkit::patiently(atoll_testkit::BOOTS, "a golden", || async {
        (scene.objects().len() == 1 && scene.sandboxes() == 0).then_some(())
    })
    .await;
    let disk = atoll_domain::validate::DEFAULT_DISK_MB;
    let sandbox = scene.create(|request| request.spec.shape.disk_mb = disk).await;
    let facts = scene.host.inspect(sandbox.id.clone()).await.unwrap();
    println!("{:?}", facts.phases);
    assert!(facts.phases.iter().any(|phase| phase.name == "restore"), "{:?}", facts.phases);
    let larger = scene.create(|request| request.spec.shape.disk_mb = disk + 1024).await;
    println!("{:?}", scene.host.inspect(larger.id.clone()).await.unwrap().phases);
    let size = larger.sh("df -m / | tail -1 | awk '{print $2}'").await.parse::<u32>().unwrap();
    assert!(size > disk + 500, "{size}");
    assert_ne!(larger.sh(WHO).await, sandbox.sh(WHO).await);
    let cold = scene.create(|request| {
        request.spec.shape.disk_mb = disk;
        request.spec.cold = true;
    });
    let cold = cold.await;
    assert!(scene.host.inspect(cold.id.clone()).await.unwrap().phases.iter().any(|phase| phase.name == "boot"));
    sandbox.sh("head -c 1000000 /dev/urandom > /dev/shm/a").await;
    let sum = sandbox.sh("sha256sum < /dev/shm/a").await;
    sandbox.pause(PauseMode::Memory).await;
    let (id, life, request) = (sandbox.id.clone(), sandbox.life, sandbox.request.clone());
    drop((sandbox, larger, cold));
    // Another agent, and no room for goldens any more, though they are wanted; what rests on the old ones goes on.
    let scene = scene.restart_with(OnExit::Keep, "1x256", 0, another_agent()).await;
    atoll_testkit::eventually("the golden to be dropped", || async { scene.goldens().is_empty().then_some(()) }).await;
    let mut sandbox = scene.again(id, life, request);
    sandbox.resume(PauseMode::Memory).await;
    assert_eq!(sandbox.sh("sha256sum < /dev/shm/a").await, sum);
    let all: Vec<_> = scene.host.list().await.unwrap();
    for facts in all {
        let call = atoll_testkit::ids::call(facts.incarnation);
        scene.host.destroy(call, facts.id).await.unwrap();
    }
    let left = scene.allocated();
    assert!(left < 1024 * 1024 && scene.objects().is_empty(), "{left} bytes are left");
    assert_eq!(scene.sandboxes(), 0, "a golden is booted that has no room");
    drop(sandbox);
    scene.end().await;
}
