//! What a sandbox used and what happened to it: answered by how it is, kept beyond its end.

use atoll_control::ControlError;
use atoll_domain::SandboxStatus;
use atoll_domain::host::HostError;
use atoll_domain::metrics::{Point, Tier};
use atoll_domain::record::{Paused, Sandbox};
use atoll_domain::ttl::Cause;
use atoll_store::Step;
use atoll_testkit::{ControlBox, Fault, Method, eventually, ids};

fn point(n: i64) -> Point {
    Point {
        timestamp_ms: 1_700_000_000_000 + n * 500,
        cpu_pct: 1.0,
        mem_bytes: 10,
        disk_bytes: 20,
        guest_mem_bytes: None,
        guest_disk_bytes: None,
    }
}

async fn sampled(fixture: &ControlBox, samples: i64) -> Sandbox {
    let sandbox = fixture.sandbox().await;
    (0..samples).for_each(|n| fixture.host.sample(&sandbox.id, point(n)));
    sandbox
}

async fn metrics(fixture: &ControlBox, of: &Sandbox, range: Option<&str>) -> Result<Vec<Point>, ControlError> {
    fixture.control.sandbox_metrics(&fixture.principal, of.id.as_str(), range).await.map(|metrics| metrics.points)
}

#[tokio::test]
async fn a_running_one_answers_live_at_every_range() {
    let fixture = ControlBox::start().await;
    let sandbox = sampled(&fixture, 130).await;
    for (range, count) in [(None, 130), (Some(""), 130), (Some("10m"), 130), (Some("2h"), 3), (Some("24h"), 1)] {
        assert_eq!(metrics(&fixture, &sandbox, range).await.unwrap().len(), count, "{range:?}");
    }
    let unknown = metrics(&fixture, &sandbox, Some("5m")).await;
    assert!(matches!(unknown, Err(ControlError::Invalid(invalid)) if invalid.field == "range"));
    let other = fixture.other_team().await;
    let foreign = fixture.control.sandbox_metrics(&other, sandbox.id.as_str(), None).await;
    assert!(matches!(foreign, Err(ControlError::NotFound { .. })));
    fixture.host.plan(Method::Metrics, Fault::Refuse(HostError::Unavailable("away".into())));
    let away = metrics(&fixture, &sandbox, None).await;
    assert!(matches!(away, Err(ControlError::Host(HostError::Unavailable(_)))));
}

#[tokio::test]
async fn of_one_that_was_not_heard_of_nobody_can_say_what_it_uses() {
    let fixture = ControlBox::start().await;
    let runs = sampled(&fixture, 4).await;
    // Nothing sets this status as long as the host is in this process, so a record of it is put there.
    let missing = Sandbox { id: ids::sandbox(), status: SandboxStatus::Missing, ..runs };
    let tx = fixture.control.store().begin(Step::Uses).await.unwrap();
    tx.insert_sandbox(&missing).await.unwrap();
    tx.commit().await.unwrap();
    for range in [None, Some("10m"), Some("2h"), Some("24h")] {
        let unheard = metrics(&fixture, &missing, range).await;
        assert!(matches!(unheard, Err(ControlError::Host(HostError::Unavailable(_)))), "{range:?}: {unheard:?}");
    }
    assert_eq!(fixture.host.calls(Method::Metrics), 0, "no host is asked for it");
}

#[tokio::test]
async fn a_destroyed_one_leaves_its_24_hours_even_if_it_lived_for_seconds() {
    let fixture = ControlBox::start().await;
    let sandbox = sampled(&fixture, 4).await;
    fixture.control.destroy_sandbox(&fixture.principal, sandbox.id.as_str()).await.unwrap();
    assert!(matches!(metrics(&fixture, &sandbox, None).await, Err(ControlError::NotFound { .. })));
    let store = fixture.control.store();
    assert_eq!(store.metric_points(&sandbox.id, Tier::Day).await.unwrap(), [point(3)]);
    assert!(store.metric_points(&sandbox.id, Tier::TenMinutes).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_destroy_does_not_hang_on_metrics_that_do_not_come() {
    let fixture = ControlBox::start().await;
    for fault in [Fault::Refuse(HostError::Failed("no metrics".into())), Fault::LoseReply] {
        let sandbox = sampled(&fixture, 4).await;
        fixture.host.plan(Method::FlushMetrics, fault);
        fixture.control.destroy_sandbox(&fixture.principal, sandbox.id.as_str()).await.unwrap();
        assert!(fixture.host.sandboxes().is_empty());
    }
}

#[tokio::test]
async fn a_paused_one_answers_from_the_record_and_keeps_its_24_hours_when_destroyed() {
    let fixture = ControlBox::start().await;
    let sandbox = sampled(&fixture, 130).await;
    let flushed = atoll_control::ports::HostDriver::flush_metrics(&fixture.host, sandbox.id.clone()).await.unwrap();
    let paused = Paused { at: 1, generation: None, quiesced: true, bytes: 0, memory_lost: false };
    let tx = fixture.control.store().begin(Step::Uses).await.unwrap();
    tx.insert_metric_points(&sandbox.id, &flushed).await.unwrap();
    assert!(tx.mark_paused(&sandbox.id, sandbox.incarnation, &paused, 1).await.unwrap());
    tx.commit().await.unwrap();
    fixture.host.die();
    assert_eq!(metrics(&fixture, &sandbox, Some("10m")).await.unwrap().len(), 130);
    assert_eq!(metrics(&fixture, &sandbox, Some("2h")).await.unwrap().len(), 3);
    fixture.host.wake();
    fixture.control.destroy_sandbox(&fixture.principal, sandbox.id.as_str()).await.unwrap();
    let store = fixture.control.store();
    assert_eq!(store.metric_points(&sandbox.id, Tier::Day).await.unwrap().len(), 1);
    assert!(store.metric_points(&sandbox.id, Tier::TwoHours).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_was_not_said_at_a_pause_is_asked_for_later() {
    let fixture = ControlBox::start().await;
    let store = fixture.control.store();
    let kept = async |of: &Sandbox| store.metric_points(&of.id, Tier::TenMinutes).await.unwrap().len();
    let closed = || async { store.open_operations().await.unwrap().is_empty().then_some(()) };
    let pause = async |of: &Sandbox, fault: HostError| {
        fixture.host.plan(Method::FlushMetrics, Fault::Refuse(fault));
        fixture.control.pause_sandbox(&fixture.principal, of.id.as_str(), None).await.unwrap();
    };
    let away = || HostError::Unavailable("away".into());
    // One that was asked for, one that the host made, one that the comparison finds.
    let (asked, found) = (sampled(&fixture, 130).await, sampled(&fixture, 130).await);
    pause(&asked, HostError::Failed("no metrics".into())).await;
    fixture.host.plan(Method::Pause, Fault::LoseReply);
    assert!(fixture.control.pause_sandbox(&fixture.principal, found.id.as_str(), None).await.is_err());
    fixture.host.plan(Method::FlushMetrics, Fault::Refuse(away()));
    atoll_control::background::reconcile::activate(&fixture.control).await.unwrap();
    assert_eq!((kept(&asked).await, kept(&found).await), (0, 0));
    assert_eq!(store.open_operations().await.unwrap().len(), 2, "one each");
    // Once more it cannot be asked.
    fixture.host.plan(Method::FlushMetrics, Fault::Refuse(away()));
    fixture.start_loops();
    eventually("all calls to be closed", closed).await;
    assert_eq!((kept(&asked).await, kept(&found).await), (130, 130));
    let expired = sampled(&fixture, 130).await;
    fixture.host.plan(Method::FlushMetrics, Fault::Refuse(away()));
    fixture.host.expire(&expired.id, Cause::Idle);
    let all = || async { (kept(&expired).await == 130).then_some(()) };
    eventually("the host to be asked again", all).await;
    eventually("the call to be closed", closed).await;
}

#[tokio::test]
async fn what_was_never_said_of_a_paused_one_is_asked_for_when_it_is_destroyed() {
    let fixture = ControlBox::start().await;
    let sandbox = sampled(&fixture, 130).await;
    fixture.host.plan(Method::FlushMetrics, Fault::Refuse(HostError::Failed("no metrics".into())));
    fixture.control.pause_sandbox(&fixture.principal, sandbox.id.as_str(), None).await.unwrap();
    fixture.control.destroy_sandbox(&fixture.principal, sandbox.id.as_str()).await.unwrap();
    let store = fixture.control.store();
    assert_eq!(store.metric_points(&sandbox.id, Tier::Day).await.unwrap().len(), 1);
    assert!(store.metric_points(&sandbox.id, Tier::TenMinutes).await.unwrap().is_empty());
}

#[tokio::test]
async fn its_history_tells_what_happened_also_after_its_end() {
    let fixture = ControlBox::start().await;
    let sandbox = fixture.sandbox().await;
    fixture.control.destroy_sandbox(&fixture.principal, sandbox.id.as_str()).await.unwrap();
    let history = fixture.control.sandbox_history(&fixture.principal, sandbox.id.as_str(), None).await.unwrap();
    let kinds: Vec<_> = history.iter().rev().map(|happening| happening.kind.as_str()).collect();
    assert_eq!(kinds, ["created", "started", "destroyed"]);
    let row = fixture.control.sandbox(&fixture.principal, sandbox.id.as_str()).await.unwrap();
    assert_eq!(row.status, SandboxStatus::Stopped);
    let other = fixture.other_team().await;
    assert!(fixture.control.sandbox_history(&other, sandbox.id.as_str(), None).await.is_err());
}
