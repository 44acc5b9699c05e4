//! A resume brings the next life once, whoever asks, and what fails leaves what is kept as it was.

use atoll_control::background::reconcile::activate;
use atoll_control::ports::HostDriver;
use atoll_control::sandboxes::CreateInput;
use atoll_control::{ControlError, SealingKey};
use atoll_domain::host::{HostError, HostSandboxState};
use atoll_domain::record::Sandbox;
use atoll_domain::snapshot::MemoryReason;
use atoll_domain::ttl::{Cause, LifetimeChange, OnExpiry};
use atoll_domain::{Incarnation, SandboxId, SandboxStatus};
use atoll_guest_client::FileBody;
use atoll_testkit::{ControlBox, Fault, Method, eventually};

use crate::exec::command;
use crate::pause::{history, pause, row, state_of, status};

async fn resume(fixture: &ControlBox, id: &SandboxId, mode: Option<&str>) -> Result<Sandbox, ControlError> {
    fixture.control.resume_sandbox(&fixture.principal, id.as_str(), mode).await
}

/// A paused sandbox that says what its next use does.
async fn paused(fixture: &ControlBox, auto_resume: bool) -> SandboxId {
    let lifetime = LifetimeChange { auto_resume: Some(auto_resume), ..LifetimeChange::default() };
    let envs = [("COLOUR".to_owned(), "blue".to_owned())].into();
    let input = CreateInput { lifetime, envs, ..CreateInput::default() };
    let id = fixture.control.create_sandbox(&fixture.principal, input).await.unwrap().id;
    pause(fixture, &id).await.unwrap();
    id
}

#[tokio::test]
async fn it_goes_on_in_its_next_life_with_its_files_size_and_variables() {
    let fixture = ControlBox::start().await;
    let input = CreateInput { vcpus: Some(3), ..CreateInput::default() };
    let id = fixture.control.create_sandbox(&fixture.principal, input).await.unwrap().id;
    let (control, principal) = (&fixture.control, &fixture.principal);
    control.write_file(principal, id.as_str(), "/root/kept", FileBody::bytes("kept")).await.unwrap();
    pause(&fixture, &id).await.unwrap();
    let refused = control.exec(principal, id.as_str(), command("true", &[])).await;
    assert_eq!(state_of(refused), "paused");
    let resumed = resume(&fixture, &id, None).await.unwrap();
    assert_eq!(
        (resumed.status, resumed.incarnation, resumed.paused.clone()),
        (SandboxStatus::Running, Incarnation(2), None)
    );
    assert_eq!((resumed.shape.vcpus, resumed.template.as_str()), (3, "base"), "size and template survive (defect 14)");
    assert_eq!(resume(&fixture, &id, None).await.unwrap(), resumed, "asked again it says the same");
    let read = control.exec(principal, id.as_str(), command("cat", &["/root/kept"])).await.unwrap();
    assert_eq!(read.exit_code, 0);
    control.destroy_sandbox(principal, id.as_str()).await.unwrap();
    assert!(fixture.host.sandboxes().is_empty());
    assert_eq!(fixture.audit_of(id.as_str()).await, ["create", "pause", "resume", "destroy"]);
    assert_eq!(history(&fixture, &id).await, ["created", "started", "paused", "resumed", "destroyed"]);
}

#[tokio::test]
async fn two_at_once_are_one_and_a_pause_meanwhile_is_refused_with_the_state() {
    let fixture = ControlBox::start().await;
    let id = paused(&fixture, false).await;
    let gate = fixture.host.hold(Method::Resume);
    let (control, principal, target) = (fixture.control.clone(), fixture.principal.clone(), id.clone());
    let first = tokio::spawn(async move { control.resume_sandbox(&principal, target.as_str(), None).await });
    gate.reached().await;
    assert_eq!(state_of(pause(&fixture, &id).await), "resuming");
    let snapshot = atoll_control::snapshots::SnapshotInput { sandbox_id: id.to_string(), ..Default::default() };
    let snapshot = fixture.control.create_snapshot(&fixture.principal, snapshot).await;
    assert_eq!(state_of(snapshot), "resuming", "nothing is copied from under a resume (defect 38)");
    let (second, ()) = tokio::join!(resume(&fixture, &id, None), async { gate.open() });
    assert_eq!(first.await.unwrap().unwrap(), second.unwrap());
    assert_eq!(fixture.host.calls(Method::Resume), 1);
    assert_eq!(fixture.audit_of(id.as_str()).await, ["create", "pause", "resume"]);
}

#[tokio::test]
async fn many_uses_at_once_resume_it_once() {
    let fixture = ControlBox::start().await;
    let id = paused(&fixture, true).await;
    let (control, principal) = (&fixture.control, &fixture.principal);
    let uses = (0..8).map(|_| control.exec(principal, id.as_str(), command("env", &[])));
    for used in futures_util::future::join_all(uses).await {
        assert!(used.unwrap().stdout.starts_with(b"COLOUR=blue\n"));
    }
    assert_eq!(fixture.host.calls(Method::Resume), 1);
    assert_eq!(row(&fixture, &id).await.incarnation, Incarnation(2));
    let lines = control.store().happenings(&id, 1).await.unwrap();
    assert_eq!((lines[0].kind.as_str(), lines[0].reason.as_deref()), ("resumed", Some("it was used")));
}

#[tokio::test]
async fn a_use_resumes_what_is_being_paused_and_what_was_paused_a_moment_ago() {
    let fixture = ControlBox::start().await;
    let (control, principal) = (&fixture.control, &fixture.principal);
    let lifetime = LifetimeChange { auto_resume: Some(true), ..LifetimeChange::default() };
    let input = CreateInput { lifetime, ..CreateInput::default() };
    let id = control.create_sandbox(principal, input).await.unwrap().id;
    // A limit's pause that takes its time: the record knows nothing of it.
    let gate = fixture.host.hold(Method::Pause);
    let (host, target) = (fixture.host.clone(), id.clone());
    let call = atoll_testkit::ids::call(Incarnation::FIRST);
    let mode = atoll_domain::host::PauseMode::Memory;
    let pausing = tokio::spawn(async move { HostDriver::pause(&host, call, target, mode).await });
    gate.reached().await;
    let (by, who, target) = (control.clone(), principal.clone(), id.clone());
    let used = tokio::spawn(async move { by.exec(&who, target.as_str(), command("true", &[])).await });
    eventually("the use to wait for the pause", || async { (fixture.host.calls(Method::Pause) == 2).then_some(()) })
        .await;
    gate.open();
    assert_eq!(used.await.unwrap().unwrap().exit_code, 0);
    pausing.await.unwrap().unwrap();
    assert_eq!(row(&fixture, &id).await.incarnation, Incarnation(2));
    // Paused, and its host has not said so yet.
    fixture.host.expire(&id, Cause::Idle);
    assert_eq!(row(&fixture, &id).await.status, SandboxStatus::Running);
    control.ping_sandbox(principal, id.as_str()).await.unwrap();
    assert_eq!(row(&fixture, &id).await.incarnation, Incarnation(3));
    assert_eq!(control.exec(principal, id.as_str(), command("true", &[])).await.unwrap().exit_code, 0);
}

#[tokio::test]
async fn files_streams_and_pings_are_uses_too_and_looking_is_none() {
    let fixture = ControlBox::start().await;
    let (control, principal) = (&fixture.control, &fixture.principal);
    let id = paused(&fixture, true).await;
    control.sandbox(principal, id.as_str()).await.unwrap();
    control.sandbox_metrics(principal, id.as_str(), None).await.unwrap();
    assert!(control.console(principal, id.as_str()).await.is_err());
    assert_eq!(status(&fixture, &id).await, SandboxStatus::Paused, "looking is no use");
    control.write_file(principal, id.as_str(), "/a", FileBody::bytes("x")).await.unwrap();
    pause(&fixture, &id).await.unwrap();
    drop(control.open_stream(principal, id.as_str()).await.unwrap());
    pause(&fixture, &id).await.unwrap();
    control.ping_sandbox(principal, id.as_str()).await.unwrap();
    assert_eq!(row(&fixture, &id).await.incarnation, Incarnation(4));
    let quiet = paused(&fixture, false).await;
    assert_eq!(state_of(control.ping_sandbox(principal, quiet.as_str()).await), "paused");
}

#[tokio::test]
async fn a_memory_that_cannot_be_used_is_refused_and_the_disk_is_taken_when_it_is_asked_for() {
    let fixture = ControlBox::start().await;
    let id = paused(&fixture, true).await;
    let unusable = HostError::MemoryUnusable(MemoryReason::Devices);
    fixture.host.plan(Method::Resume, Fault::Refuse(unusable.clone()));
    let refused = fixture.control.exec(&fixture.principal, id.as_str(), command("true", &[])).await;
    assert!(matches!(refused, Err(ControlError::Host(error)) if error == unusable), "nothing falls back by itself");
    assert_eq!(status(&fixture, &id).await, SandboxStatus::Paused);
    assert_eq!(fixture.audit_of(id.as_str()).await, ["create", "pause", "resume_failed"]);
    assert_eq!(resume(&fixture, &id, Some("disk")).await.unwrap().status, SandboxStatus::Running);
    let disk_alone = fixture.control.pause_sandbox(&fixture.principal, id.as_str(), Some("disk")).await.unwrap();
    assert_eq!(disk_alone.sandbox.paused.unwrap().generation, None);
    assert!(resume(&fixture, &id, None).await.is_ok(), "its memory was given up when it was paused");
}

#[tokio::test]
async fn a_memory_that_a_resume_lost_is_told_and_never_replaced_by_the_disk_unasked() {
    let fixture = ControlBox::start().await;
    let id = paused(&fixture, true).await;
    fixture.host.lose_memory(&id);
    let late = HostError::Timeout { what: "resume".into(), limit_ms: 1 };
    fixture.host.plan(Method::Resume, Fault::Refuse(late));
    assert!(resume(&fixture, &id, None).await.is_err());
    let kept = row(&fixture, &id).await.paused.unwrap();
    assert_eq!((kept.generation, kept.memory_lost), (None, true), "the record says what there is");
    let lost = HostError::MemoryUnusable(MemoryReason::Lost);
    let used = fixture.control.exec(&fixture.principal, id.as_str(), command("true", &[])).await;
    assert!(matches!(used, Err(ControlError::Host(error)) if error == lost), "a use boots nothing by itself");
    assert_eq!(resume(&fixture, &id, Some("disk")).await.unwrap().status, SandboxStatus::Running);
    // The same, and nobody was told: the comparison finds it.
    fixture.control.pause_sandbox(&fixture.principal, id.as_str(), None).await.unwrap();
    fixture.host.lose_memory(&id);
    activate(&fixture.control).await.unwrap();
    assert!(row(&fixture, &id).await.paused.unwrap().memory_lost);
}

#[tokio::test]
async fn uses_of_what_cannot_be_resumed_say_why_once_and_who_asks_for_it_each_time() {
    let fixture = ControlBox::start().await;
    let id = paused(&fixture, true).await;
    let damaged = |what: &str| fixture.host.plan(Method::Resume, Fault::Refuse(HostError::Damaged(what.into())));
    let uses = async || fixture.control.exec(&fixture.principal, id.as_str(), command("true", &[])).await;
    for _ in 0..3 {
        damaged("state is shorter than it says");
        assert!(uses().await.is_err());
    }
    assert_eq!(fixture.audit_of(id.as_str()).await, ["create", "pause", "resume_failed"]);
    damaged("state is shorter than it says");
    assert!(resume(&fixture, &id, None).await.is_err());
    assert_eq!(fixture.audit_of(id.as_str()).await.len(), 4);
    damaged("the manifest was changed");
    assert!(uses().await.is_err());
    let told = ["created", "started", "paused", "resume_failed", "resume_failed", "resume_failed"];
    assert_eq!(history(&fixture, &id).await, told);
    assert!(uses().await.is_ok());
}

#[tokio::test]
async fn which_limit_it_was_is_told_even_to_whoever_is_faster_than_the_host() {
    let fixture = ControlBox::start().await;
    let id = fixture.sandbox().await.id;
    let gate = fixture.host.hold(Method::Watch);
    fixture.start_loops();
    gate.reached().await;
    fixture.host.expire(&id, Cause::Idle);
    let looks = fixture.host.calls(Method::LatestEvent) + fixture.host.calls(Method::Resume);
    let late = async {
        let past = || async {
            let now = fixture.host.calls(Method::LatestEvent) + fixture.host.calls(Method::Resume);
            (now > looks).then_some(())
        };
        eventually("somebody to be faster", past).await;
        gate.open();
    };
    let (resumed, ()) = tokio::join!(resume(&fixture, &id, None), late);
    assert_eq!(resumed.unwrap().status, SandboxStatus::Running);
    let told = crate::pause::history(&fixture, &id).await;
    assert_eq!(told, ["created", "started", "expired", "paused", "resumed"]);
}

#[tokio::test]
async fn a_lost_answer_and_a_crash_are_mended_by_the_comparison() {
    let mut fixture = ControlBox::start().await;
    let id = paused(&fixture, false).await;
    fixture.host.plan(Method::Resume, Fault::LoseReply);
    assert!(resume(&fixture, &id, None).await.is_err());
    assert_eq!(status(&fixture, &id).await, SandboxStatus::Paused);
    assert_eq!(activate(&fixture.control).await.unwrap().resumed, std::slice::from_ref(&id));
    let mended = row(&fixture, &id).await;
    assert_eq!((mended.status, mended.incarnation), (SandboxStatus::Running, Incarnation(2)));
    let other = paused(&fixture, false).await;
    let _never_opened = fixture.host.hold_answer(Method::Resume);
    let (control, principal, target) = (fixture.control.clone(), fixture.principal.clone(), other.clone());
    tokio::spawn(async move { control.resume_sandbox(&principal, target.as_str(), None).await });
    let runs = || async {
        let facts = atoll_control::ports::HostDriver::inspect(&fixture.host, other.clone()).await.unwrap();
        (facts.state == HostSandboxState::Running).then_some(())
    };
    eventually("the host to run it", runs).await;
    fixture.restart().await;
    activate(&fixture.control).await.unwrap();
    assert_eq!(status(&fixture, &other).await, SandboxStatus::Running);
    assert!(fixture.control.store().open_operations().await.unwrap().is_empty());
    fixture.control.destroy_sandbox(&fixture.principal, other.as_str()).await.unwrap();
    fixture.control.destroy_sandbox(&fixture.principal, id.as_str()).await.unwrap();
    assert!(fixture.host.sandboxes().is_empty());
}

#[tokio::test]
async fn a_destroy_wins_over_a_resume() {
    let fixture = ControlBox::start().await;
    let id = paused(&fixture, false).await;
    let gate = fixture.host.hold(Method::Resume);
    let (control, principal, target) = (fixture.control.clone(), fixture.principal.clone(), id.clone());
    let resuming = tokio::spawn(async move { control.resume_sandbox(&principal, target.as_str(), None).await });
    gate.reached().await;
    fixture.control.destroy_sandbox(&fixture.principal, id.as_str()).await.unwrap();
    gate.open();
    assert!(resuming.await.unwrap().is_err());
    assert!(fixture.host.sandboxes().is_empty());
    assert_eq!(status(&fixture, &id).await, SandboxStatus::Stopped);
}

#[tokio::test]
async fn another_sealing_key_stops_a_resume_alone_and_says_which_is_missing() {
    let mut fixture = ControlBox::start().await;
    let id = paused(&fixture, false).await;
    fixture.restart_with(SealingKey::new([1; 32])).await;
    let refused = resume(&fixture, &id, None).await.unwrap_err();
    assert!(matches!(refused, ControlError::SecretsUnavailable { .. }));
    assert!(refused.to_string().contains("put that file back"), "{refused}");
    assert_eq!(fixture.host.calls(Method::Resume), 0);
    let other = fixture.sandbox().await.id;
    pause(&fixture, &other).await.unwrap();
    resume(&fixture, &other, None).await.unwrap();
    let sealed = fixture.control.store().secrets(&id).await.unwrap().unwrap();
    let database = std::fs::read(fixture.database()).unwrap();
    assert!(!sealed.contains("blue") && !database.windows(4).any(|window| window == b"blue"), "nothing is in clear");
}

#[tokio::test]
async fn limits_are_set_at_create_changed_later_and_kept_to_by_the_host() {
    let fixture = ControlBox::start().await;
    let (control, principal) = (&fixture.control, &fixture.principal);
    let lifetime = LifetimeChange { timeout_sec: Some(60), on_expiry: Some(OnExpiry::Destroy), ..Default::default() };
    let made = control.create_sandbox(principal, CreateInput { lifetime, ..Default::default() }).await.unwrap();
    assert_eq!(fixture.host.lifetime_of(&made.id), Some(made.lifetime));
    assert_eq!((made.lifetime.timeout_sec, made.lifetime.on_expiry), (60, OnExpiry::Destroy));
    let change = LifetimeChange { timeout_sec: Some(5), auto_resume: Some(true), ..Default::default() };
    let changed = control.update_sandbox(principal, made.id.as_str(), &change).await.unwrap();
    assert_eq!(fixture.host.lifetime_of(&made.id), Some(changed.lifetime));
    assert_eq!(
        (changed.lifetime.timeout_sec, changed.lifetime.on_expiry),
        (5, OnExpiry::Destroy),
        "what is absent stays"
    );
    assert_eq!(fixture.audit_of(made.id.as_str()).await, ["create", "update"]);
    let past = LifetimeChange { end_at: Some(Some(1)), ..Default::default() };
    let refused = control.update_sandbox(principal, made.id.as_str(), &past).await;
    assert!(matches!(refused, Err(ControlError::Invalid(invalid)) if invalid.field == "end_at"));
    fixture.host.plan(Method::SetLifetime, Fault::Refuse(HostError::Failed("no".into())));
    let change = LifetimeChange { timeout_sec: Some(7), ..Default::default() };
    assert!(control.update_sandbox(principal, made.id.as_str(), &change).await.is_err());
    assert_eq!(row(&fixture, &made.id).await.lifetime, changed.lifetime, "what the host refuses is put back");
}

#[tokio::test]
async fn a_change_of_limits_that_is_overtaken_on_its_way_changes_nothing() {
    let fixture = ControlBox::start().await;
    let id = fixture.sandbox().await.id;
    let to = |seconds| LifetimeChange { timeout_sec: Some(seconds), ..LifetimeChange::default() };
    let gate = fixture.host.hold(Method::SetLifetime);
    let (control, principal, target) = (fixture.control.clone(), fixture.principal.clone(), id.clone());
    let older = tokio::spawn(async move { control.update_sandbox(&principal, target.as_str(), &to(7)).await });
    gate.reached().await;
    let newer = fixture.control.update_sandbox(&fixture.principal, id.as_str(), &to(9)).await.unwrap();
    gate.open();
    older.await.unwrap().unwrap();
    assert_eq!(newer.lifetime.timeout_sec, 9);
    assert_eq!(fixture.host.lifetime_of(&id), Some(newer.lifetime), "the older one won");
    assert_eq!(row(&fixture, &id).await.lifetime, newer.lifetime);
    assert!(fixture.control.store().open_operations().await.unwrap().is_empty());
}

#[tokio::test]
async fn changes_of_limits_that_are_all_refused_leave_the_record_as_the_host_has_it() {
    let fixture = ControlBox::start().await;
    let made = fixture.sandbox().await;
    let no = || HostError::NoCapacity { what: "disk_mb".into(), needed: 2, available: 1 };
    let change = |seconds| {
        let change = LifetimeChange { timeout_sec: Some(seconds), ..LifetimeChange::default() };
        let (control, principal, id) = (fixture.control.clone(), fixture.principal.clone(), made.id.clone());
        tokio::spawn(async move { control.update_sandbox(&principal, id.as_str(), &change).await })
    };
    let agree = async |what: &str| {
        let kept = fixture.host.lifetime_of(&made.id).unwrap();
        assert_eq!(row(&fixture, &made.id).await.lifetime, kept, "{what}");
        assert!(fixture.control.store().open_operations().await.unwrap().is_empty(), "{what}");
        kept
    };
    // The second is written down on top of the first, which is refused as well: what it found is nothing to go back to.
    fixture.host.plan(Method::SetLifetime, Fault::Refuse(no()));
    fixture.host.plan(Method::SetLifetime, Fault::Refuse(no()));
    let gate = fixture.host.hold(Method::Inspect);
    let first = change(7);
    gate.reached().await;
    assert!(change(9).await.unwrap().is_err());
    gate.open();
    assert!(first.await.unwrap().is_err());
    assert_eq!(agree("both refused").await, made.lifetime);
    // An older one that the host would take, and that comes there after a newer one was refused.
    let gate = fixture.host.hold(Method::SetLifetime);
    let older = change(7);
    gate.reached().await;
    fixture.host.plan(Method::SetLifetime, Fault::Refuse(no()));
    assert!(change(9).await.unwrap().is_err());
    gate.open();
    older.await.unwrap().unwrap();
    assert_eq!(agree("overtaken by one that was refused").await, made.lifetime);
    // A host that is away when it is to be asked what it keeps to.
    fixture.host.plan(Method::SetLifetime, Fault::Refuse(no()));
    fixture.host.plan(Method::Inspect, Fault::Refuse(HostError::Unavailable("away".into())));
    assert!(change(9).await.unwrap().is_err());
    assert_eq!(row(&fixture, &made.id).await.lifetime.timeout_sec, 9, "not known better yet");
    fixture.host.plan(Method::SetLifetime, Fault::Refuse(no()));
    fixture.start_loops();
    let closed = || async { fixture.control.store().open_operations().await.unwrap().is_empty().then_some(()) };
    eventually("the call to be closed", closed).await;
    assert_eq!(agree("refused again later").await, made.lifetime);
}

#[tokio::test]
async fn limits_that_could_not_be_told_are_told_later() {
    let fixture = ControlBox::start().await;
    let id = fixture.sandbox().await.id;
    fixture.host.plan(Method::SetLifetime, Fault::Refuse(HostError::Unavailable("away".into())));
    let change = LifetimeChange { timeout_sec: Some(9), ..Default::default() };
    assert!(fixture.control.update_sandbox(&fixture.principal, id.as_str(), &change).await.is_err());
    fixture.start_loops();
    let told = || async { fixture.host.lifetime_of(&id).filter(|lifetime| lifetime.timeout_sec == 9) };
    eventually("the host to hear of it", told).await;
    let closed = || async { fixture.control.store().open_operations().await.unwrap().is_empty().then_some(()) };
    eventually("the call to be closed", closed).await;
}

#[tokio::test]
async fn a_deadline_that_has_passed_is_moved_before_a_resume() {
    let fixture = ControlBox::start().await;
    let (control, principal) = (&fixture.control, &fixture.principal);
    let id = paused(&fixture, false).await;
    let end = row(&fixture, &id).await.last_updated + 60_000_000;
    let change = LifetimeChange { end_at: Some(Some(end)), ..Default::default() };
    control.update_sandbox(principal, id.as_str(), &change).await.unwrap();
    fixture.clock.advance(120_000_000);
    assert!(matches!(resume(&fixture, &id, None).await, Err(ControlError::DeadlinePassed { .. })));
    let none = LifetimeChange { end_at: Some(None), ..Default::default() };
    control.update_sandbox(principal, id.as_str(), &none).await.unwrap();
    resume(&fixture, &id, None).await.unwrap();
}
