//! What is paused is there as soon as the next Atoll answers.
//!
//! How it works: Atoll is killed right after a pause was answered, and the next one is asked for a resume by its first request.
//!
//! Deliberately absent: an Atoll that dies within a pause or a resume (the kill matrix).

use super::counter::Counter;
use super::told::MEMORY;
use super::world::{World, request};

const ROUNDS: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_sandbox_is_resumed_by_the_first_request_after_a_kill() {
    let mut world = World::running().await;
    let id = world.client().create(&request()).await.unwrap().id;
    let counter = Counter::begin(&world.client(), &id).await;
    for round in 0..ROUNDS {
        world.client().pause(&id, &MEMORY).await.unwrap();
        world.up().await;
        let resumed = world.client().resume(&id, &MEMORY).await;
        assert!(resumed.is_ok(), "round {round}: {resumed:?}");
        counter.goes_on(&world.client()).await;
    }
    world.agrees().await;
}
