//! What is left of a sandbox that was all but removed.
//!
//! How it works: an Atoll that dies at the very end of a removal leaves an empty directory, and what the number names that is given back last.
//! The test leaves the same: it ends keeper and Atoll, and empties the directory.
//!
//! Deliberately absent: dying at the steps before (the kill matrix).

use std::fs;

use super::case::Victim;
use super::checker;
use super::world::{LIMIT, World, request, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_directory_keeps_no_number_group_or_network_at_the_next_start() {
    let mut world = World::running().await;
    let made = world.client().create(&request()).await.unwrap();
    let host = made.host.unwrap();
    world.kill();
    assert!(checker::kill_of(&world.data(), &made.id, Victim::Keeper));
    let vmm = format!("/proc/{}/cmdline", host.vmm_pid.unwrap());
    // One that ended and was not buried yet has no words.
    let gone = async || if fs::read(&vmm).unwrap_or_default().is_empty() { Ok(()) } else { Err("it runs".to_owned()) };
    until("the end of its VMM", LIMIT, gone).await.unwrap();
    fs::remove_dir_all(&host.directory).unwrap();
    fs::create_dir(&host.directory).unwrap();

    world.up().await;
    world.over(&made.id).await;
    world.agrees().await;
    assert!(!fs::exists(&host.directory).unwrap());
}
