//! The simulated host keeps to what every host keeps to, and its faults are what they say.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and may say what it saw"
)]

mod life;

use std::sync::Arc;

use atoll_control::ports::HostDriver as _;
use atoll_domain::Incarnation;
use atoll_domain::host::{Destroyed, EventSeq, HostError, HostSandboxState};
use atoll_testkit::conformance::{self, Driver};
use atoll_testkit::{Fault, Method, SimHost, ids};

fn driver() -> Driver {
    Arc::new(SimHost::new())
}

#[tokio::test]
async fn replayed_create_has_its_effect_once() {
    conformance::replayed_create_has_its_effect_once(&driver()).await;
}

#[tokio::test]
async fn destroy_is_idempotent() {
    conformance::destroy_is_idempotent(&driver()).await;
}

#[tokio::test]
async fn metrics_are_flushed_without_an_end() {
    conformance::metrics_are_flushed_without_an_end(&driver()).await;
}

#[tokio::test]
async fn a_stale_incarnation_is_refused() {
    conformance::a_stale_incarnation_is_refused(&driver()).await;
}

#[tokio::test]
async fn a_cancelled_create_can_be_joined_again() {
    conformance::a_cancelled_create_can_be_joined_again(&driver()).await;
}

#[tokio::test]
async fn destroy_wins_over_create() {
    conformance::destroy_wins_over_create(&driver()).await;
}

#[tokio::test]
async fn a_cancelled_destroy_ends_all_the_same() {
    conformance::a_cancelled_destroy_ends_all_the_same(&driver()).await;
}

#[tokio::test]
async fn streams_reach_the_agent_and_the_token_counts() {
    conformance::streams_reach_the_agent_and_the_token_counts(&driver()).await;
}

#[tokio::test]
async fn events_come_from_any_number_until_acknowledged() {
    let host = SimHost::new();
    let driver: Driver = Arc::new(host.clone());
    let end = |id| {
        let host = host.clone();
        async move { host.end_sandbox(&id, "powered off") }
    };
    conformance::events_come_from_any_number_until_acknowledged(&driver, end).await;
}

#[tokio::test]
async fn a_lost_reply_comes_after_the_effect_and_a_replay_tells_of_it() {
    let host = SimHost::new();
    let (id, call) = (ids::sandbox(), ids::call(Incarnation::FIRST));
    host.plan(Method::Create, Fault::LoseReply);
    let lost = host.create(call.clone(), ids::request(&id)).await;
    assert!(matches!(lost, Err(HostError::Unavailable(_))), "{lost:?}");
    assert_eq!(host.sandboxes(), std::slice::from_ref(&id));
    assert_eq!(host.create(call, ids::request(&id)).await.unwrap().state, HostSandboxState::Running);
    host.plan(Method::Destroy, Fault::LoseReply);
    let end = ids::call(Incarnation::FIRST);
    assert!(host.destroy(end.clone(), id.clone()).await.is_err());
    assert!(host.sandboxes().is_empty());
    assert_eq!(host.destroy(end, id).await, Ok(Destroyed::NotFound));
}

#[tokio::test]
async fn a_refused_call_has_no_effect() {
    let host = SimHost::new();
    let id = ids::sandbox();
    let short = HostError::NoCapacity { what: "memory_mb".into(), needed: 2, available: 1 };
    host.plan(Method::Create, Fault::Refuse(short.clone()));
    assert_eq!(host.create(ids::call(Incarnation::FIRST), ids::request(&id)).await, Err(short));
    assert!(host.sandboxes().is_empty());
}

#[tokio::test]
async fn a_slow_create_is_seen_starting_and_is_called_off_by_a_destroy() {
    let host = SimHost::new();
    let (id, call) = (ids::sandbox(), ids::call(Incarnation::FIRST));
    let gate = host.hold(Method::Create);
    let (asker, request) = (host.clone(), ids::request(&id));
    let task = tokio::spawn(async move { asker.create(call, request).await });
    gate.reached().await;
    assert_eq!(host.inspect(id.clone()).await.unwrap().state, HostSandboxState::Starting);
    assert_eq!(host.destroy(ids::call(Incarnation::FIRST), id.clone()).await, Ok(Destroyed::Done));
    gate.open();
    assert!(matches!(task.await.unwrap(), Err(HostError::WrongState { .. })));
    assert_eq!(host.inspect(id).await, Err(HostError::NotFound));
}

#[tokio::test]
async fn a_dead_host_refuses_and_keeps_its_sandboxes_and_a_hung_one_answers_when_it_wakes() {
    let host = SimHost::new();
    let id = ids::sandbox();
    host.create(ids::call(Incarnation::FIRST), ids::request(&id)).await.unwrap();
    let mut events = host.watch(EventSeq(0)).await.unwrap();
    host.die();
    assert!(matches!(host.list().await, Err(HostError::Unavailable(_))));
    assert_eq!(atoll_testkit::within("the cut of the stream", events.recv()).await, None);
    host.hang();
    let asker = host.clone();
    let task = tokio::spawn(async move { asker.list().await });
    tokio::task::yield_now().await;
    assert!(!task.is_finished());
    host.wake();
    assert_eq!(task.await.unwrap().unwrap().len(), 1);
}
