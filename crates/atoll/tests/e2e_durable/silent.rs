//! A keeper and a VMM that hang: found by deadlines, ended, and their rows say so.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::world::{World, request, shell};

fn stop(pid: Option<u32>) {
    kill(Pid::from_raw(i32::try_from(pid.unwrap()).unwrap()), Signal::SIGSTOP).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keeper_and_a_vmm_that_hang_are_ended_and_their_rows_say_why() {
    let world = World::running().await;
    let client = world.client();
    let mut hung = Vec::new();
    for _ in 0..2 {
        let made = client.create(&request()).await.unwrap();
        hung.push(client.sandbox(&made.id).await.unwrap());
    }
    let well = client.create(&request()).await.unwrap();
    let pids: Vec<_> = hung.iter().map(|sandbox| sandbox.host.clone().unwrap()).collect();
    stop(pids[0].keeper_pid);
    stop(pids[1].vmm_pid);
    for sandbox in &hung {
        let over = world.over(&sandbox.id).await;
        let reason = over.reason.unwrap_or_default();
        assert!(reason.contains("hangs"), "{reason}");
    }
    world.agrees().await;
    assert_eq!(shell(&client, &well.id, "echo ok").await.unwrap().stdout, "ok\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keeper_that_hangs_at_a_start_is_ended_and_holds_nobody_up() {
    let mut world = World::running().await;
    let client = world.client();
    let (hung, well) = (client.create(&request()).await.unwrap(), client.create(&request()).await.unwrap());
    let facts = client.sandbox(&hung.id).await.unwrap().host.unwrap();
    world.kill();
    stop(facts.keeper_pid);
    world.up().await;
    assert_eq!(shell(&world.client(), &well.id, "echo ok").await.unwrap().stdout, "ok\n");
    let reason = world.over(&hung.id).await.reason.unwrap_or_default();
    assert!(reason.contains("hangs"), "{reason}");
    world.agrees().await;
}
