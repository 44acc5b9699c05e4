//! The token of a sandbox that runs: in its keeper's memory and its guest's, and on no disk.
//!
//! How it works: its data directory is searched while an Atoll has it, and after the next has taken it over.
//!
//! Deliberately absent: its variables, and the database (`e2e_durable`, `restart`); what is paused, which holds the guest's memory.

use atoll_host::OnExit;

use crate::embedded;
use crate::holding::holding;
use crate::scene::{GOLDEN_BUDGET_MB, Scene};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_of_what_runs_is_on_no_disk() {
    let scene = Scene::new().await;
    let sandbox = scene.create(|_| {}).await;
    assert_eq!(sandbox.sh("sync; echo here").await, "here");
    let secret = sandbox.request.secrets.token.expose().to_owned();
    assert!(!holding(&scene.root(), sandbox.id.as_str()).is_empty(), "what is no secret is found");
    assert_eq!(holding(&scene.root(), &secret), "");
    let (id, life, request) = (sandbox.id, sandbox.life, sandbox.request);
    drop(sandbox.host);
    let scene = scene.restart_with(OnExit::Keep, "", GOLDEN_BUDGET_MB, embedded::GUEST).await;
    let sandbox = scene.again(id, life, request);
    assert_eq!(sandbox.sh("echo here").await, "here");
    assert_eq!(holding(&scene.root(), &secret), "");
    drop(sandbox);
    scene.end().await;
}
