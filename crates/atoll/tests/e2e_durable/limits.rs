//! Limits of sandboxes go on while no Atoll runs, and are kept to by the next.
//!
//! How it works: Atoll is killed, some seconds pass, another is started. What it did is judged by the times that it tells: nothing comes
//! before its time, and a time is counted from where it began, not from the restart.
//!
//! Deliberately absent: many limits at once and what is a use (`e2e_life`, `e2e`).

use std::time::Instant;

use atoll_api::{CreateSandboxRequest, Sandbox, SandboxStatus, UpdateSandboxRequest};
use atoll_client::Client;
use jiff::{SignedDuration, Timestamp};

use super::counter::Counter;
use super::told::{MEMORY, kinds, micros, reason};
use super::world::{LIMIT, World, request, shell, until};

const TIMEOUT: i64 = 18;
const END: i64 = 6;
const LIFETIME: u32 = 20;

const IDLE: &str = "nobody used it for its timeout";
const DEADLINE: &str = "its end_at has come";
const MAX_LIFETIME: &str = "it ran for its maximum lifetime";

fn now() -> i64 {
    Timestamp::now().as_microsecond()
}

fn in_seconds(seconds: i64) -> Timestamp {
    Timestamp::now() + SignedDuration::from_secs(seconds)
}

async fn passed(moment: i64) {
    let passed = async || if now() > moment { Ok(()) } else { Err("it has not come".to_owned()) };
    until("a moment to pass", LIMIT, passed).await.unwrap();
}

async fn paused(world: &World, id: &str) -> Sandbox {
    let client = world.client();
    let paused = until("it to be paused", LIMIT, async || match client.sandbox(id).await {
        Ok(row) if row.status == SandboxStatus::Paused => Ok(row),
        other => Err(format!("{other:?}")),
    });
    paused.await.unwrap_or_else(|why| panic!("{why}\n{}", world.last_log()))
}

fn paused_at(row: &Sandbox) -> i64 {
    micros(&row.paused.as_ref().unwrap().at)
}

async fn expired(client: &Client, id: &str, why: &str) {
    let kinds = kinds(client, id).await;
    assert_eq!(kinds[kinds.len() - 2..], ["expired", "paused"], "{kinds:?}");
    assert_eq!(reason(client, id, "expired").await.as_deref(), Some(why));
}

async fn update(client: &Client, id: &str, change: UpdateSandboxRequest) {
    client.update(id, &change).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_time_and_deadlines_go_on_while_no_atoll_runs() {
    let mut world = World::running().await;
    let client = world.client();
    let mut all = Vec::new();
    for _ in 0..4 {
        all.push(client.create(&request()).await.unwrap().id);
    }
    let [idle, unlimited, to_pause, to_end] = all.as_slice() else { unreachable!() };
    let (counter, other) = (Counter::begin(&client, idle).await, Counter::begin(&client, unlimited).await);
    let end = in_seconds(END);
    for (id, fate) in [(to_pause, "pause"), (to_end, "destroy")] {
        let end_at = Some(Some(end.to_string()));
        update(&client, id, UpdateSandboxRequest { end_at, on_expiry: Some(fate.into()), ..Default::default() }).await;
    }
    update(&client, idle, UpdateSandboxRequest { timeout_sec: Some(TIMEOUT), ..Default::default() }).await;
    let used = now();
    shell(&client, idle, "true").await.unwrap();
    world.kill();
    passed(end.as_microsecond() + 8_000_000).await;

    world.up().await;
    let (up, client) = (now(), world.client());
    let over = world.over(to_end).await;
    assert_eq!(over.reason.as_deref(), Some(DEADLINE));
    let row = paused(&world, to_pause).await;
    assert!(paused_at(&row) >= end.as_microsecond(), "{row:?}");
    expired(&client, to_pause, DEADLINE).await;
    let row = paused(&world, idle).await;
    let (at, seconds) = (paused_at(&row), |micros: i64| micros / 1_000_000);
    println!("started {} s after the last use, paused {} s after it", seconds(up - used), seconds(at - used));
    assert!(at >= used + TIMEOUT * 1_000_000, "before its time");
    assert!(at < up + TIMEOUT * 1_000_000, "counted from the restart");
    expired(&client, idle, IDLE).await;
    other.goes_on(&client).await;
    world.agrees().await;

    client.resume(idle, &MEMORY).await.unwrap();
    counter.goes_on(&client).await;
    update(&client, to_pause, UpdateSandboxRequest { end_at: Some(None), ..Default::default() }).await;
    client.resume(to_pause, &MEMORY).await.unwrap();
    assert_eq!(shell(&client, to_pause, "echo here").await.unwrap().stdout, "here\n");
    world.agrees().await;
}

/// Uses it until it cannot be used any more.
async fn use_up(client: &Client, id: &str) {
    let begun = Instant::now();
    while begun.elapsed() < LIMIT {
        if shell(client, id, "true").await.is_err() {
            return;
        }
    }
    panic!("it could be used for {} s", LIMIT.as_secs());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_longest_life_ends_whoever_uses_it_and_whatever_atoll_runs_and_a_resume_begins_another() {
    let mut world = World::running().await;
    let asked = now();
    let request = CreateSandboxRequest { max_lifetime_sec: Some(LIFETIME.into()), ..request() };
    let made = world.client().create(&request).await.unwrap();
    assert_eq!(made.max_lifetime_sec, LIFETIME);
    let counter = Counter::begin(&world.client(), &made.id).await;
    world.kill();
    passed(now() + i64::from(LIFETIME) * 1_000_000).await;
    world.up().await;
    let client = world.client();
    let row = paused(&world, &made.id).await;
    assert!(paused_at(&row) >= asked + i64::from(LIFETIME) * 1_000_000, "before its time");
    expired(&client, &made.id, MAX_LIFETIME).await;

    let again = now();
    client.resume(&made.id, &MEMORY).await.unwrap();
    counter.goes_on(&client).await;
    use_up(&client, &made.id).await;
    let row = paused(&world, &made.id).await;
    assert!(paused_at(&row) >= again + i64::from(LIFETIME) * 1_000_000, "before its time");
    expired(&client, &made.id, MAX_LIFETIME).await;
    let told = kinds(&client, &made.id).await;
    assert_eq!(told, ["created", "started", "expired", "paused", "resumed", "expired", "paused"]);
    world.agrees().await;
}
