//! What every `HostDriver` keeps to, in one place.
//!
//! How it works: each function is one rule, tried against a driver that is given to it: a simulated host in milliseconds, a real one with
//! real VMs in seconds. A rule leaves nothing behind on the host. Faults that only a simulated host can be told to have are in the
//! tests of the simulated host.
//!
//! Deliberately absent: anything that only one driver does.

use std::sync::Arc;

use atoll_control::ports::HostDriver;
use atoll_domain::host::{Destroyed, EventSeq, HostError, HostEventKind, HostSandboxState};
use atoll_domain::metrics::Tier;
use atoll_domain::{Incarnation, SandboxId};
use atoll_guest_client::{AGENT_PORT, AccessToken, GuestClient, dial_fn};

use crate::{eventually, ids};

/// A driver under test.
pub type Driver = Arc<dyn HostDriver>;

async fn destroy(driver: &Driver, id: &SandboxId) -> Destroyed {
    driver.destroy(ids::call(Incarnation::FIRST), id.clone()).await.expect("a destroy")
}

async fn state_of(driver: &Driver, id: &SandboxId) -> Option<HostSandboxState> {
    driver.inspect(id.clone()).await.ok().map(|facts| facts.state)
}

/// A create replayed with its operation answers the same and makes nothing new; another operation is refused.
pub async fn replayed_create_has_its_effect_once(driver: &Driver) {
    let (id, call) = (ids::sandbox(), ids::call(Incarnation::FIRST));
    let request = ids::request(&id);
    let (first, joined) =
        tokio::join!(driver.create(call.clone(), request.clone()), driver.create(call.clone(), request.clone()));
    let first = first.expect("a create");
    assert_eq!(joined.expect("a replay that joins").vmm_pid, first.vmm_pid);
    let again = driver.create(call.clone(), request.clone()).await.expect("a replay after the answer");
    assert_eq!((&again.id, again.vmm_pid), (&id, first.vmm_pid));
    let other = driver.create(ids::call(Incarnation::FIRST), request.clone()).await;
    assert!(matches!(other, Err(HostError::WrongState { .. })), "{other:?}");
    let listed = driver.list().await.expect("a list");
    assert_eq!(listed.iter().filter(|facts| facts.id == id).count(), 1);
    assert_eq!(destroy(driver, &id).await, Destroyed::Done);
    let late = driver.create(call, request).await;
    assert!(matches!(late, Err(HostError::WrongState { .. })), "a late replay made a new one: {late:?}");
    assert_eq!(driver.inspect(id).await, Err(HostError::NotFound));
}

/// Metrics are there for what runs, and a flush may be repeated.
pub async fn metrics_are_flushed_without_an_end(driver: &Driver) {
    let id = ids::sandbox();
    assert_eq!(driver.metrics(id.clone(), Tier::TenMinutes).await, Err(HostError::NotFound));
    assert_eq!(driver.flush_metrics(id.clone()).await, Err(HostError::NotFound));
    driver.create(ids::call(Incarnation::FIRST), ids::request(&id)).await.expect("a create");
    let first = driver.flush_metrics(id.clone()).await.expect("a flush");
    let again = driver.flush_metrics(id.clone()).await.expect("another flush");
    assert!(again.len() >= first.len(), "a flush took something away");
    assert!(driver.metrics(id.clone(), Tier::Day).await.is_ok(), "still there");
    destroy(driver, &id).await;
    assert_eq!(driver.metrics(id, Tier::TenMinutes).await, Err(HostError::NotFound));
}

/// A destroy answers when nothing is left, and again without an effect.
pub async fn destroy_is_idempotent(driver: &Driver) {
    let id = ids::sandbox();
    assert_eq!(destroy(driver, &id).await, Destroyed::NotFound, "what never was");
    driver.create(ids::call(Incarnation::FIRST), ids::request(&id)).await.expect("a create");
    let call = ids::call(Incarnation::FIRST);
    assert_eq!(driver.destroy(call.clone(), id.clone()).await, Ok(Destroyed::Done));
    assert!(driver.destroy(call, id.clone()).await.is_ok(), "the same call again");
    assert_eq!(destroy(driver, &id).await, Destroyed::NotFound);
    assert_eq!(driver.inspect(id.clone()).await, Err(HostError::NotFound));
    assert_eq!(driver.secrets(id.clone()).await, Err(HostError::NotFound));
    assert!(matches!(driver.open_stream(id, AGENT_PORT).await, Err(HostError::NotFound)));
}

/// A call about an older life of a sandbox is refused and changes nothing.
pub async fn a_stale_incarnation_is_refused(driver: &Driver) {
    let id = ids::sandbox();
    let later = Incarnation(3);
    driver.create(ids::call(later), ids::request(&id)).await.expect("a create");
    let stale = driver.destroy(ids::call(Incarnation(2)), id.clone()).await;
    assert!(matches!(stale, Err(HostError::WrongState { .. })), "{stale:?}");
    assert_eq!(state_of(driver, &id).await, Some(HostSandboxState::Running));
    assert_eq!(driver.destroy(ids::call(later), id).await, Ok(Destroyed::Done));
}

/// A caller that goes away does not call anything off: a replay finds the one sandbox, a destroy removes it.
pub async fn a_cancelled_create_can_be_joined_again(driver: &Driver) {
    let (id, call) = (ids::sandbox(), ids::call(Incarnation::FIRST));
    let request = ids::request(&id);
    let (asker, caller) = (Arc::clone(driver), (call.clone(), request.clone()));
    let task = tokio::spawn(async move { asker.create(caller.0, caller.1).await });
    eventually("the create to be seen", || async { state_of(driver, &id).await }).await;
    task.abort();
    let joined = driver.create(call, request).await.expect("a replay");
    assert_eq!(joined.state, HostSandboxState::Running);
    assert_eq!(destroy(driver, &id).await, Destroyed::Done);
}

/// A destroy wins over a create under way: who waits for the create is told, and nothing is left.
pub async fn destroy_wins_over_create(driver: &Driver) {
    let (id, call) = (ids::sandbox(), ids::call(Incarnation::FIRST));
    let (asker, caller, request) = (Arc::clone(driver), call.clone(), ids::request(&id));
    let task = tokio::spawn(async move { asker.create(caller, request).await });
    eventually("the create to be seen", || async { state_of(driver, &id).await }).await;
    destroy(driver, &id).await;
    // Either it was still starting, or it had just begun to run.
    if let Err(error) = task.await.expect("no panic") {
        assert!(matches!(error, HostError::WrongState { .. }), "{error:?}");
    }
    assert_eq!(driver.inspect(id.clone()).await, Err(HostError::NotFound));
    assert!(driver.list().await.expect("a list").iter().all(|facts| facts.id != id));
}

/// A destroy whose caller goes away ends all the same.
pub async fn a_cancelled_destroy_ends_all_the_same(driver: &Driver) {
    let id = ids::sandbox();
    driver.create(ids::call(Incarnation::FIRST), ids::request(&id)).await.expect("a create");
    let (asker, target) = (Arc::clone(driver), id.clone());
    let task = tokio::spawn(async move { asker.destroy(ids::call(Incarnation::FIRST), target).await });
    let begun = || async { (state_of(driver, &id).await != Some(HostSandboxState::Running)).then_some(()) };
    eventually("the destroy to begin", begun).await;
    task.abort();
    let gone = || async { state_of(driver, &id).await.is_none().then_some(()) };
    eventually("the sandbox to be gone", gone).await;
}

/// The agent answers over a stream, with the token that `secrets` names and with no other.
pub async fn streams_reach_the_agent_and_the_token_counts(driver: &Driver) {
    let id = ids::sandbox();
    let request = ids::request(&id);
    driver.create(ids::call(Incarnation::FIRST), request.clone()).await.expect("a create");
    assert_eq!(driver.secrets(id.clone()).await, Ok(request.secrets.clone()));
    let client = |token: &str| {
        let (driver, id) = (Arc::clone(driver), id.clone());
        let dial = dial_fn(move || {
            let (driver, id) = (Arc::clone(&driver), id.clone());
            async move { driver.open_stream(id, AGENT_PORT).await.map_err(std::io::Error::other) }
        });
        GuestClient::new(dial, Some(AccessToken::new(token)))
    };
    let agent = client(request.secrets.token.expose());
    agent.health().await.expect("its health");
    let body = atoll_guest_client::FileBody::bytes(&b"over a stream"[..]);
    agent.write_file("/tmp/conformance", Some("root"), body).await.expect("a write");
    let read = agent.read_file("/tmp/conformance", Some("root"), None).await.expect("a read");
    assert_eq!(read.read_to_end(1024).await.expect("its bytes"), &b"over a stream"[..]);
    let refused = client("0000").read_file("/tmp/conformance", Some("root"), None).await;
    assert!(refused.is_err_and(|error| error.reason() == Some(atoll_guest_client::Reason::BadToken)));
    let closed = driver.open_stream(id.clone(), 9).await;
    assert!(matches!(closed, Err(HostError::Unavailable(_))), "nobody listens on port 9");
    assert_eq!(destroy(driver, &id).await, Destroyed::Done);
}

/// What ends by itself is told once, in order, from any number on, until it is acknowledged; what was asked for is not told. The number
/// of the latest grows with each and with nothing else.
pub async fn events_come_from_any_number_until_acknowledged<F>(driver: &Driver, end: impl Fn(SandboxId) -> F)
where
    F: Future<Output = ()>,
{
    let ids = [ids::sandbox(), ids::sandbox(), ids::sandbox()];
    for id in &ids {
        driver.create(ids::call(Incarnation::FIRST), ids::request(id)).await.expect("a create");
    }
    let latest = || async { driver.latest_event().await.expect("a number") };
    let before = latest().await;
    destroy(driver, &ids[1]).await;
    assert_eq!(latest().await, before, "what was asked for has a number");
    end(ids[0].clone()).await;
    end(ids[2].clone()).await;
    let mut all = driver.watch(EventSeq(0)).await.expect("a stream");
    let mut ended = Vec::new();
    while ended.len() < 2 {
        let event = crate::within("an event", all.recv()).await.expect("the stream lives");
        if ids.contains(&event.sandbox) && matches!(event.kind, HostEventKind::Ended { .. }) {
            ended.push(event);
        }
    }
    assert!(ended.iter().all(|event| event.sandbox != ids[1]), "an asked-for end was told: {ended:?}");
    assert!(before < ended[0].seq && ended[0].seq < ended[1].seq, "{before:?} {ended:?}");
    assert_eq!(latest().await, ended[1].seq);
    let mut later = driver.watch(ended[0].seq).await.expect("a stream");
    let next = crate::within("the event after the first", later.recv()).await.expect("the stream lives");
    assert!(next.seq > ended[0].seq);
    driver.acknowledge(ended[1].seq).await.expect("an acknowledgement");
    driver.acknowledge(ended[1].seq).await.expect("the same again");
    assert_eq!(latest().await, ended[1].seq, "a number is never given again");
    let last = ids::sandbox();
    driver.create(ids::call(Incarnation::FIRST), ids::request(&last)).await.expect("a create");
    end(last.clone()).await;
    let mut fresh = driver.watch(EventSeq(0)).await.expect("a stream");
    let first = crate::within("the first event that is kept", fresh.recv()).await.expect("the stream lives");
    assert!(first.seq > ended[1].seq, "an acknowledged event came again: {first:?}");
    driver.acknowledge(first.seq).await.expect("an acknowledgement");
}
