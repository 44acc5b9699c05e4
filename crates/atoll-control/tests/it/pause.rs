//! A pause is written down as the host has it, whoever asked for it and whatever is lost in between (defects 7, 8, 10 to 12 and 36).

use atoll_control::ControlError;
use atoll_control::background::reconcile::activate;
use atoll_control::sandboxes::PausedSandbox;
use atoll_domain::host::{HostError, HostEventKind, HostSandboxState};
use atoll_domain::metrics::{Point, Tier};
use atoll_domain::record::Sandbox;
use atoll_domain::ttl::Cause;
use atoll_domain::{SandboxId, SandboxStatus};
use atoll_testkit::{ControlBox, Fault, Method, eventually};

pub(crate) async fn pause(fixture: &ControlBox, id: &SandboxId) -> Result<PausedSandbox, ControlError> {
    fixture.control.pause_sandbox(&fixture.principal, id.as_str(), None).await
}

pub(crate) async fn row(fixture: &ControlBox, id: &SandboxId) -> Sandbox {
    fixture.control.store().sandbox(id).await.unwrap().unwrap()
}

pub(crate) async fn status(fixture: &ControlBox, id: &SandboxId) -> SandboxStatus {
    row(fixture, id).await.status
}

pub(crate) async fn history(fixture: &ControlBox, id: &SandboxId) -> Vec<&'static str> {
    let lines = fixture.control.store().happenings(id, 100).await.unwrap();
    lines.iter().rev().map(|line| line.kind.as_str()).collect()
}

pub(crate) fn state_of<T: std::fmt::Debug>(answer: Result<T, ControlError>) -> String {
    match answer {
        Err(ControlError::Host(HostError::WrongState { state })) => state,
        Err(ControlError::NotRunning { status, .. }) => status.to_string(),
        other => panic!("not refused with a state: {other:?}"),
    }
}

fn sample(fixture: &ControlBox, id: &SandboxId, count: i64) {
    for n in 0..count {
        let timestamp_ms = 1_700_000_000_000 + n * 500;
        let (mem_bytes, disk_bytes) = (10, 20);
        let point =
            Point { timestamp_ms, cpu_pct: 1.0, mem_bytes, disk_bytes, guest_mem_bytes: None, guest_disk_bytes: None };
        fixture.host.sample(id, point);
    }
}

#[tokio::test]
async fn a_pause_keeps_what_it_used_at_every_resolution_and_is_told_once() {
    let fixture = ControlBox::start().await;
    let id = fixture.sandbox().await.id;
    sample(&fixture, &id, 130);
    let done = pause(&fixture, &id).await.unwrap();
    assert!(done.took.is_some());
    let kept = done.sandbox.paused.clone().unwrap();
    assert!(kept.quiesced && kept.generation.is_some() && kept.bytes > 0);
    assert_eq!((done.sandbox.status, &done.sandbox.guest_ip), (SandboxStatus::Paused, &None));
    let store = fixture.control.store();
    let counts = [Tier::TenMinutes, Tier::TwoHours, Tier::Day].map(|tier| store.metric_points(&id, tier));
    let counts = futures_util::future::join_all(counts).await;
    let counts: Vec<usize> = counts.into_iter().map(|points| points.unwrap().len()).collect();
    assert_eq!(counts, [130, 3, 1], "both samples of a second, and the partial means");
    let again = pause(&fixture, &id).await.unwrap();
    assert_eq!((again.sandbox, again.took), (done.sandbox, None), "asked again it says the same");
    assert_eq!(fixture.audit_of(id.as_str()).await, ["create", "pause"]);
    assert_eq!(history(&fixture, &id).await, ["created", "started", "paused"]);
    assert!(store.open_operations().await.unwrap().is_empty());
    let wrong = fixture.control.pause_sandbox(&fixture.principal, id.as_str(), Some("both")).await;
    assert!(matches!(wrong, Err(ControlError::Invalid(invalid)) if invalid.field == "mode"));
    let other = fixture.other_team().await;
    let foreign = fixture.control.pause_sandbox(&other, id.as_str(), None).await;
    assert!(matches!(foreign, Err(ControlError::NotFound { .. })));
}

#[tokio::test]
async fn two_at_once_are_one_and_the_opposite_is_refused_with_the_state() {
    let fixture = ControlBox::start().await;
    let id = fixture.sandbox().await.id;
    let gate = fixture.host.hold(Method::Pause);
    let (control, principal, target) = (fixture.control.clone(), fixture.principal.clone(), id.clone());
    let first = tokio::spawn(async move { control.pause_sandbox(&principal, target.as_str(), None).await });
    gate.reached().await;
    let resume = fixture.control.resume_sandbox(&fixture.principal, id.as_str(), None).await;
    assert_eq!(state_of(resume), "pausing");
    let (second, ()) = tokio::join!(pause(&fixture, &id), async { gate.open() });
    let first = first.await.unwrap().unwrap();
    assert_eq!(first.sandbox, second.unwrap().sandbox);
    assert_eq!(fixture.audit_of(id.as_str()).await, ["create", "pause"]);
}

#[tokio::test]
async fn a_failed_pause_leaves_it_running_and_sampled_and_says_why() {
    let fixture = ControlBox::start().await;
    let id = fixture.sandbox().await.id;
    sample(&fixture, &id, 2);
    fixture.host.plan(Method::Pause, Fault::Refuse(HostError::Failed("no space".into())));
    assert!(pause(&fixture, &id).await.is_err());
    assert_eq!(status(&fixture, &id).await, SandboxStatus::Running);
    let live = fixture.control.sandbox_metrics(&fixture.principal, id.as_str(), None).await.unwrap();
    assert_eq!(live.points.len(), 2, "nothing was flushed away");
    assert_eq!(fixture.audit_of(id.as_str()).await, ["create", "pause_failed"]);
    assert_eq!(history(&fixture, &id).await, ["created", "started", "pause_failed"]);
    pause(&fixture, &id).await.unwrap();
}

#[tokio::test]
async fn a_destroy_wins_and_the_pause_is_told() {
    let fixture = ControlBox::start().await;
    let id = fixture.sandbox().await.id;
    let gate = fixture.host.hold(Method::Pause);
    let (control, principal, target) = (fixture.control.clone(), fixture.principal.clone(), id.clone());
    let pausing = tokio::spawn(async move { control.pause_sandbox(&principal, target.as_str(), None).await });
    gate.reached().await;
    fixture.control.destroy_sandbox(&fixture.principal, id.as_str()).await.unwrap();
    gate.open();
    assert!(pausing.await.unwrap().is_err());
    assert_eq!(status(&fixture, &id).await, SandboxStatus::Stopped);
    assert!(fixture.host.sandboxes().is_empty());
    assert_eq!(fixture.audit_of(id.as_str()).await, ["create", "destroy"]);
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_a_paused_sandbox() {
    let fixture = ControlBox::start().await;
    let id = fixture.sandbox().await.id;
    let gate = fixture.host.hold_answer(Method::Pause);
    let (control, principal, target) = (fixture.control.clone(), fixture.principal.clone(), id.clone());
    let asking = tokio::spawn(async move { control.pause_sandbox(&principal, target.as_str(), None).await });
    gate.reached().await;
    asking.abort();
    gate.open();
    let paused = || async { (status(&fixture, &id).await == SandboxStatus::Paused).then_some(()) };
    eventually("the pause to be written down", paused).await;
}

#[tokio::test]
async fn a_lost_answer_and_a_crash_are_mended_by_the_comparison() {
    let mut fixture = ControlBox::start().await;
    let id = fixture.sandbox().await.id;
    sample(&fixture, &id, 2);
    fixture.host.plan(Method::Pause, Fault::LoseReply);
    assert!(pause(&fixture, &id).await.is_err());
    assert_eq!(status(&fixture, &id).await, SandboxStatus::Running);
    assert_eq!(activate(&fixture.control).await.unwrap().paused, std::slice::from_ref(&id));
    assert_eq!(status(&fixture, &id).await, SandboxStatus::Paused);
    assert_eq!(fixture.audit_of(id.as_str()).await, ["create", "pause"]);
    assert_eq!(fixture.control.store().metric_points(&id, Tier::TenMinutes).await.unwrap().len(), 2);
    // Killed between the host's work and its word.
    let second = fixture.sandbox().await.id;
    let _never_opened = fixture.host.hold_answer(Method::Pause);
    let (control, principal, target) = (fixture.control.clone(), fixture.principal.clone(), second.clone());
    tokio::spawn(async move { control.pause_sandbox(&principal, target.as_str(), None).await });
    let on_disk = || async {
        let facts = atoll_control::ports::HostDriver::inspect(&fixture.host, second.clone()).await.unwrap();
        (facts.state == HostSandboxState::Paused).then_some(())
    };
    eventually("the host to have paused it", on_disk).await;
    fixture.restart().await;
    assert_eq!(fixture.control.store().open_operations().await.unwrap().len(), 1);
    activate(&fixture.control).await.unwrap();
    assert_eq!(status(&fixture, &second).await, SandboxStatus::Paused);
    assert!(fixture.control.store().open_operations().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_the_host_pauses_by_itself_is_kept_with_all_that_it_used() {
    let fixture = ControlBox::start().await;
    let id = fixture.sandbox().await.id;
    sample(&fixture, &id, 4);
    fixture.host.plan(Method::List, Fault::Refuse(HostError::Unavailable("not now".into())));
    fixture.start_loops();
    fixture.host.expire(&id, Cause::Idle);
    let paused = || async { (status(&fixture, &id).await == SandboxStatus::Paused).then_some(()) };
    eventually("the event to be taken in", paused).await;
    assert_eq!(history(&fixture, &id).await, ["created", "started", "expired", "paused"]);
    assert_eq!(fixture.audit_of(id.as_str()).await, ["create", "pause"]);
    let store = fixture.control.store();
    assert_eq!(store.metric_points(&id, Tier::TenMinutes).await.unwrap().len(), 4);
    assert_eq!(store.metric_points(&id, Tier::Day).await.unwrap().len(), 1);
    let again = row(&fixture, &id).await;
    fixture.host.tell(&id, again.incarnation, HostEventKind::Paused { paused: again.paused.unwrap(), cause: None });
    let taken = || async { (fixture.host.kept_events() == 0).then_some(()) };
    eventually("the same event again", taken).await;
    assert_eq!(fixture.audit_of(id.as_str()).await, ["create", "pause"], "it counts once");
}

#[tokio::test]
async fn the_limit_that_was_reached_is_told_however_late_the_events_come() {
    let fixture = ControlBox::start().await;
    let id = fixture.sandbox().await.id;
    fixture.host.expire(&id, Cause::MaxLifetime);
    let gate = fixture.host.hold(Method::Watch);
    fixture.start_loops();
    gate.reached().await;
    // The comparison has found it paused by now.
    eventually("a comparison", async || (fixture.host.calls(Method::LatestEvent) > 0).then_some(())).await;
    gate.open();
    let paused = || async { (status(&fixture, &id).await == SandboxStatus::Paused).then_some(()) };
    eventually("the pause to be written down", paused).await;
    assert_eq!(history(&fixture, &id).await, ["created", "started", "expired", "paused"]);
}

#[tokio::test]
async fn a_paused_one_that_a_destroy_could_not_give_back_is_ended_and_written_down() {
    let fixture = ControlBox::start().await;
    let id = fixture.sandbox().await.id;
    pause(&fixture, &id).await.unwrap();
    fixture.host.stick(&id);
    assert_eq!(activate(&fixture.control).await.unwrap().destroyed, std::slice::from_ref(&id));
    assert_eq!(status(&fixture, &id).await, SandboxStatus::Stopped);
    assert!(fixture.host.sandboxes().is_empty());
}

#[tokio::test]
async fn a_limit_that_could_not_be_kept_to_is_told_and_it_runs_on() {
    let fixture = ControlBox::start().await;
    let sandbox = fixture.sandbox().await;
    let failed = HostEventKind::PauseFailed { reason: "no space".into(), cause: Some(Cause::Idle) };
    fixture.host.tell(&sandbox.id, sandbox.incarnation, failed);
    fixture.start_loops();
    let told = || async { history(&fixture, &sandbox.id).await.contains(&"pause_failed").then_some(()) };
    eventually("the failure to be told", told).await;
    assert_eq!(status(&fixture, &sandbox.id).await, SandboxStatus::Running);
    assert_eq!(fixture.audit_of(sandbox.id.as_str()).await, ["create", "pause_failed"]);
}

#[tokio::test]
async fn a_limit_that_cannot_be_kept_for_long_is_told_once_for_each_cause() {
    let fixture = ControlBox::start().await;
    let sandbox = fixture.sandbox().await;
    fixture.start_loops();
    let fail = async |reason: &str| {
        let failed = HostEventKind::PauseFailed { reason: reason.into(), cause: Some(Cause::Idle) };
        fixture.host.tell(&sandbox.id, sandbox.incarnation, failed);
        eventually("the failure to be taken in", async || (fixture.host.kept_events() == 0).then_some(())).await;
    };
    for left in [300, 299, 1024] {
        fail(&format!("disk_mb is short: 512 needed, {left} available")).await;
    }
    assert_eq!(history(&fixture, &sandbox.id).await, ["created", "started", "pause_failed"]);
    fail("the guest's agent did not answer in time").await;
    fail("the guest's agent did not answer in time").await;
    assert_eq!(fixture.audit_of(sandbox.id.as_str()).await, ["create", "pause_failed", "pause_failed"]);
    // Another life is told of again.
    pause(&fixture, &sandbox.id).await.unwrap();
    let next = fixture.control.resume_sandbox(&fixture.principal, sandbox.id.as_str(), None).await.unwrap();
    let reason = "the guest's agent did not answer in time".into();
    fixture.host.tell(&sandbox.id, next.incarnation, HostEventKind::PauseFailed { reason, cause: None });
    eventually("the failure to be taken in", async || (fixture.host.kept_events() == 0).then_some(())).await;
    let told = history(&fixture, &sandbox.id).await;
    assert_eq!(told[2..], ["pause_failed", "pause_failed", "paused", "resumed", "pause_failed"]);
}

#[tokio::test]
async fn what_was_destroyed_while_paused_leaves_its_24_hours_and_no_secrets() {
    let fixture = ControlBox::start().await;
    let id = fixture.sandbox().await.id;
    sample(&fixture, &id, 130);
    assert!(fixture.control.store().secrets(&id).await.unwrap().is_some());
    pause(&fixture, &id).await.unwrap();
    fixture.control.destroy_sandbox(&fixture.principal, id.as_str()).await.unwrap();
    let store = fixture.control.store();
    assert_eq!(store.metric_points(&id, Tier::Day).await.unwrap().len(), 1);
    assert!(store.metric_points(&id, Tier::TenMinutes).await.unwrap().is_empty());
    assert_eq!(store.secrets(&id).await.unwrap(), None);
    assert!(fixture.host.sandboxes().is_empty());
}
