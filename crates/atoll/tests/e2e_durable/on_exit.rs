//! `atoll up --on-exit pause`: an orderly stop puts everything that runs on the disk.
//!
//! How it works: programs count in two sandboxes, a third was paused by its owner before; Atoll is told to stop, and the next one,
//! which keeps what runs, is asked what it knows.
//!
//! Deliberately absent: the other ways to stop (`e2e`, and `restart`, where what runs is kept).

use std::fs;

use atoll_api::SandboxStatus;
use atoll_client::Client;

use super::counter::Counter;
use super::told::{MEMORY, kinds, sampled};
use super::world::{LIMIT, World, request, until};

/// One whose Atoll pauses what runs when it stops.
async fn that_pauses() -> World {
    let mut world = World::empty();
    world.start(&[("ATOLL_ON_EXIT", "pause")]).unwrap();
    let never = world.file("never");
    assert_eq!(world.is_up(&never).await, Ok(true), "{}", world.last_log());
    world
}

/// The times of its samples, once there are some.
async fn some_samples(client: &Client, id: &str) -> Vec<i64> {
    let enough = until("samples", LIMIT, async || match sampled(client, id).await {
        points if points.len() > 4 => Ok(points),
        points => Err(format!("{points:?}")),
    });
    enough.await.unwrap()
}

/// It was paused once, and what it used until then is in the database.
async fn is_paused_with_all_that_it_used(client: &Client, id: &str, before: &[i64]) {
    let paused = until("its row to say so", LIMIT, async || match client.sandbox(id).await {
        Ok(row) if row.status == SandboxStatus::Paused => Ok(row.paused),
        other => Err(format!("{other:?}")),
    });
    let kept = paused.await.unwrap().unwrap();
    assert!(kept.mode == "memory" && kept.bytes > 0, "{kept:?}");
    // No limit was reached: its owner reads of no expiry.
    assert_eq!(kinds(client, id).await, ["created", "started", "paused"]);
    // A host that is slow to say it while it starts is asked again.
    let kept = until("its samples", LIMIT, async || match sampled(client, id).await {
        after if after.starts_with(before) => Ok(()),
        after => Err(format!("samples were lost: {before:?}, {after:?}")),
    });
    kept.await.unwrap();
    for range in ["2h", "24h"] {
        let points = client.metrics(id, range).await.unwrap().points;
        assert!(!points.is_empty(), "what was incomplete of {range} is not kept");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_that_pauses_keeps_memory_and_samples_and_is_told_once() {
    let mut world = that_pauses().await;
    let client = world.client();
    let (mut counters, mut samples, mut vmms) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..2 {
        let made = client.create(&request()).await.unwrap();
        counters.push(Counter::begin(&client, &made.id).await);
        vmms.push(made.host.unwrap().vmm_pid.unwrap());
    }
    let earlier = client.create(&request()).await.unwrap().id;
    client.pause(&earlier, &MEMORY).await.unwrap();
    for counter in &counters {
        samples.push(some_samples(&client, &counter.id).await);
    }
    assert!(world.stop(), "{}", world.last_log());
    for vmm in vmms {
        // One that ended and was not buried yet has no words.
        let words = fs::read(format!("/proc/{vmm}/cmdline")).unwrap_or_default();
        assert!(words.is_empty(), "{} runs on\n{}", String::from_utf8_lossy(&words), world.last_log());
    }
    // The second start has nothing left to tell.
    for start in 0..2 {
        world.up().await;
        for (counter, before) in counters.iter().zip(&samples) {
            println!("start {start}: {}", counter.id);
            is_paused_with_all_that_it_used(&world.client(), &counter.id, before).await;
        }
        assert_eq!(kinds(&world.client(), &earlier).await, ["created", "started", "paused"]);
        world.agrees().await;
    }
    let client = world.client();
    for counter in &counters {
        client.resume(&counter.id, &MEMORY).await.unwrap();
        counter.goes_on(&client).await;
        assert_eq!(kinds(&client, &counter.id).await, ["created", "started", "paused", "resumed"]);
    }
    world.agrees().await;
}
