//! A golden is made again when what it is made of is another, or the machine.
//!
//! How it works: the host agent is started anew on the same directory, with another guest agent, or after the golden's manifest was
//! signed again as that of another processor. Which goldens there are, and where, stands in the journal of objects.
//!
//! Deliberately absent: another kernel, image or VMM, which a host agent is not given; and the budget ([`crate::copies`]).

use std::path::PathBuf;

use atoll_control::ports::HostDriver as _;
use atoll_domain::validate::DEFAULT_DISK_MB;
use atoll_host::OnExit;

use crate::embedded;
use crate::forms::{key, write_as};
use crate::scene::{GOLDEN_BUDGET_MB, Scene, another_agent};

/// A golden by its name and its directory.
type Golden = (String, PathBuf);

/// The golden that is there, once its boot was given back and nothing is left of any other.
fn only(scene: &Scene) -> Option<Golden> {
    let mut all = scene.goldens();
    let one = all.pop_first().filter(|_| all.is_empty())?;
    (scene.sandboxes() == 0 && scene.objects() == [one.1.clone()]).then_some(one)
}

/// Waits for one that takes the place of another.
async fn golden(scene: &Scene, before: Option<&Golden>) -> Golden {
    let new = || async { only(scene).filter(|golden| Some(golden) != before) };
    atoll_testkit::patiently(atoll_testkit::BOOTS, "a golden", new).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_golden_of_another_processor_or_another_agent_gives_way_to_a_new_one() {
    let scene = Scene::with_goldens("1x256").await;
    let first = golden(&scene, None).await;
    // As after a move of the disk to another machine.
    write_as(&first.1.join("manifest.json"), &key(&scene), |manifest| manifest.platform.cpu_model = "another".into());
    let scene = scene.restart_with(OnExit::Keep, "1x256", GOLDEN_BUDGET_MB, embedded::GUEST).await;
    let second = golden(&scene, Some(&first)).await;
    assert_eq!(second.0, first.0, "it is made of the same");
    let scene = scene.restart_with(OnExit::Keep, "1x256", GOLDEN_BUDGET_MB, another_agent()).await;
    let third = golden(&scene, Some(&second)).await;
    assert_ne!(third.0, second.0, "it is made of another agent");
    let sandbox = scene.create(|request| request.spec.shape.disk_mb = DEFAULT_DISK_MB).await;
    let phases = scene.host.inspect(sandbox.id.clone()).await.unwrap().phases;
    println!("{phases:?}");
    assert!(phases.iter().any(|phase| phase.name == "restore"), "{phases:?}");
    assert!(phases.iter().all(|phase| phase.name != "boot"), "{phases:?}");
    assert_eq!(sandbox.sh("echo on").await, "on");
    drop(sandbox);
    scene.end().await;
}
