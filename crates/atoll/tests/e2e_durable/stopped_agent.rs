//! An agent that root inside the guest has stopped: what is kept without it is told apart, and nobody waits for it for ever.
//!
//! How it works: a command's parent is the agent; a program that the command leaves behind stops it, and lets it go on after a while.
//! What a loaded machine has done with that while is seen in the answers, and tried again with a longer one.
//!
//! Deliberately absent: a VMM or a keeper that hangs ([`super::silent`]).

use std::time::{Duration, Instant};

use atoll_api::{CreateSnapshotRequest, ErrorCode, Paused, Snapshot};
use atoll_client::{Client, ClientError};
use tokio::time::timeout;

use super::counter::Counter;
use super::told::{MEMORY, kinds};
use super::world::{LIMIT, World, request, shell, until};

/// How long the first asker of an agent waits before it is called silent.
const SILENT: Duration = Duration::from_millis(500);
/// As long as a template's snapshot waits for the agent.
const BUSY: Duration = Duration::from_secs(5);
/// Longest time of a pause that does not wait for the agent: half of what it is stopped for in the second try. Who waits as long as a
/// template does takes longer, however long the agent is stopped for.
const SOON: Duration = Duration::from_secs(4);

/// Stops the agent for so many seconds of the guest; it does not answer when this returns.
async fn stop_agent(client: &Client, id: &str, seconds: u32) {
    let line = format!("(kill -STOP $PPID; sleep {seconds}; kill -CONT $PPID) >/dev/null 2>&1 &");
    // Its answer may be stopped with it.
    let _ = timeout(2 * SILENT, shell(client, id, &line)).await;
    let stopped = until("the agent to stop", LIMIT, async || match timeout(SILENT, client.stat(id, "/root")).await {
        Err(_) => Ok(()),
        Ok(answer) => Err(format!("it answers: {answer:?}")),
    });
    stopped.await.unwrap();
}

/// Pauses it while its agent stands still, without waiting for that.
async fn pause_without_agent(client: &Client, id: &str) -> Paused {
    let mut tried = Vec::new();
    for seconds in [4, 8, 16] {
        stop_agent(client, id, seconds).await;
        let kept = client.pause(id, &MEMORY).await.unwrap().paused.unwrap();
        let took = Duration::from_secs_f64(kept.took_ms.unwrap() / 1000.0);
        if !kept.quiesced && took < SOON {
            return kept;
        }
        // Its agent went on before the pause, or the pause itself took that long on a loaded machine.
        tried.push((kept.quiesced, took));
        client.resume(id, &MEMORY).await.unwrap();
    }
    panic!("no pause was made without the agent within {SOON:?}; (with the agent, took): {tried:?}");
}

async fn template(client: &Client, id: &str, name: &str) -> Result<Snapshot, ClientError> {
    let request = CreateSnapshotRequest { sandbox_id: id.to_owned(), name: Some(name.to_owned()) };
    client.create_snapshot(&request, false).await
}

/// A template that is made in the end: on a machine under load an agent that goes on may be late, too.
async fn made(mut make: impl AsyncFnMut() -> Result<Snapshot, ClientError>) {
    let made = until("the template", LIMIT, async || match make().await {
        Err(error) if error.code() == Some(ErrorCode::AgentBusy) => Err(error.to_string()),
        made => Ok(made.unwrap()),
    });
    made.await.unwrap();
}

fn is_refused(made: Result<Snapshot, ClientError>, code: ErrorCode) {
    match made {
        Err(ClientError::Refused(problem)) => assert_eq!((problem.status, problem.code), (409, code), "{problem:?}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_without_the_agent_resumes_its_own_sandbox_and_is_never_copied() {
    let world = World::running().await;
    let client = world.client();
    let id = client.create(&request()).await.unwrap().id;
    let counter = Counter::begin(&client, &id).await;
    let kept = pause_without_agent(&client, &id).await;
    println!("{kept:?}");
    assert!(kept.mode == "memory" && kept.bytes > 0, "{kept:?}");
    assert!(!client.sandbox(&id).await.unwrap().paused.unwrap().quiesced, "it is said as long as it is kept");
    is_refused(template(&client, &id, "none").await, ErrorCode::Unquiesced);
    assert!(client.snapshots(Some("snapshot")).await.unwrap().is_empty());
    world.agrees().await;
    // The agent goes on in the middle of it.
    client.resume(&id, &MEMORY).await.unwrap();
    counter.goes_on(&client).await;
    assert_eq!(kinds(&client, &id).await.last().map(String::as_str), Some("resumed"));
    // What the agent was asked for while it was stopped is not done now.
    made(async || template(&client, &id, "whole").await).await;
    counter.goes_on(&client).await;
    world.agrees().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_waits_for_the_agent_five_seconds_and_the_sandbox_runs_on() {
    let world = World::running().await;
    let client = world.client();
    let id = client.create(&request()).await.unwrap().id;
    let counter = Counter::begin(&client, &id).await;
    stop_agent(&client, &id, 15).await;
    let asked = Instant::now();
    is_refused(template(&client, &id, "late").await, ErrorCode::AgentBusy);
    println!("refused after {:?}", asked.elapsed());
    assert!(asked.elapsed() >= BUSY, "it was not waited for: {:?}", asked.elapsed());
    // Waits until the agent goes on.
    counter.goes_on(&client).await;
    assert!(client.snapshots(Some("snapshot")).await.unwrap().is_empty());
    world.agrees().await;
    // One that is back in time is waited for.
    made(async || {
        stop_agent(&client, &id, 2).await;
        template(&client, &id, "late").await
    })
    .await;
    counter.goes_on(&client).await;
    world.agrees().await;
}
