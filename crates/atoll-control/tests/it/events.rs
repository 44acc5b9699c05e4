//! What a host tells of by itself reaches the rows exactly once.

use atoll_control::sandboxes::CreateInput;
use atoll_domain::host::{HostError, HostEventKind};
use atoll_domain::{Incarnation, SandboxId, SandboxStatus};
use atoll_testkit::{ControlBox, Fault, Method, eventually};

async fn stopped(fixture: &ControlBox, id: &SandboxId) {
    let over = || async {
        let row = fixture.control.store().sandbox(id).await.unwrap()?;
        (row.status == SandboxStatus::Stopped).then_some(())
    };
    eventually("the row to say that it stopped", over).await;
}

async fn all_taken_in(fixture: &ControlBox) {
    let taken = || async { (fixture.host.kept_events() == 0).then_some(()) };
    eventually("every event to be acknowledged", taken).await;
}

#[tokio::test]
async fn a_vm_that_ends_by_itself_is_marked_and_told_once() {
    let fixture = ControlBox::start().await;
    let sandbox = fixture.sandbox().await;
    // The reconciling loop would find it gone too, without the reason.
    fixture.host.plan(Method::List, Fault::Refuse(HostError::Unavailable("not now".into())));
    fixture.start_loops();
    fixture.host.end_sandbox(&sandbox.id, "the guest powered off");
    stopped(&fixture, &sandbox.id).await;
    all_taken_in(&fixture).await;
    let row = fixture.control.sandbox(&fixture.principal, sandbox.id.as_str()).await.unwrap();
    assert_eq!(row.reason.as_deref(), Some("the guest powered off"));
    assert_eq!(fixture.audit_of(sandbox.id.as_str()).await, ["create", "ended"]);
    fixture.control.destroy_sandbox(&fixture.principal, sandbox.id.as_str()).await.unwrap();
    assert_eq!(fixture.audit_of(sandbox.id.as_str()).await, ["create", "ended"]);
}

#[tokio::test]
async fn an_event_whose_acknowledgement_was_lost_counts_once() {
    let fixture = ControlBox::start().await;
    let (first, second) = (fixture.sandbox().await, fixture.sandbox().await);
    fixture.host.plan(Method::Acknowledge, Fault::Refuse(HostError::Unavailable("cut".into())));
    fixture.host.end_sandbox(&first.id, "powered off");
    fixture.start_loops();
    stopped(&fixture, &first.id).await;
    fixture.host.end_sandbox(&second.id, "powered off");
    stopped(&fixture, &second.id).await;
    assert_eq!(fixture.audit_of(first.id.as_str()).await, ["create", "ended"]);
    assert_eq!(fixture.audit_of(second.id.as_str()).await, ["create", "ended"]);
}

#[tokio::test]
async fn what_happened_while_nobody_listened_is_told_at_the_next_start() {
    let mut fixture = ControlBox::start().await;
    let sandbox = fixture.sandbox().await;
    fixture.control.shutdown().await;
    fixture.host.end_sandbox(&sandbox.id, "the VMM was killed by signal 9");
    fixture.restart().await;
    fixture.start_loops();
    stopped(&fixture, &sandbox.id).await;
    assert_eq!(fixture.audit_of(sandbox.id.as_str()).await, ["create", "ended"]);
}

#[tokio::test]
async fn events_about_nobody_and_about_an_older_life_change_nothing_and_block_nothing() {
    let fixture = ControlBox::start().await;
    let sandbox = fixture.sandbox().await;
    let ended = |reason: &str| HostEventKind::Ended { reason: reason.into() };
    fixture.host.tell(&SandboxId::from_random([8; 16]), Incarnation::FIRST, ended("unknown"));
    fixture.host.tell(&sandbox.id, Incarnation(0), ended("an older life"));
    fixture.host.tell(&sandbox.id, Incarnation::FIRST, HostEventKind::DiskFull);
    fixture.start_loops();
    all_taken_in(&fixture).await;
    let row = fixture.control.sandbox(&fixture.principal, sandbox.id.as_str()).await.unwrap();
    assert_eq!(row.status, SandboxStatus::Running);
}

#[tokio::test]
async fn what_stood_still_and_goes_on_is_told_in_order() {
    let fixture = ControlBox::start().await;
    let sandbox = fixture.sandbox().await;
    let tell = |kind| fixture.host.tell(&sandbox.id, Incarnation::FIRST, kind);
    for kind in [HostEventKind::DiskFull, HostEventKind::Resumed] {
        tell(kind);
    }
    fixture.start_loops();
    all_taken_in(&fixture).await;
    let told = crate::pause::history(&fixture, &sandbox.id).await;
    assert_eq!(told, ["created", "started", "disk_full", "goes_on"]);
}

#[tokio::test]
async fn shutdown_waits_for_a_create_under_way() {
    let fixture = ControlBox::start().await;
    let gate = fixture.host.hold(Method::Create);
    let (control, principal) = (fixture.control.clone(), fixture.principal.clone());
    let creating = tokio::spawn(async move { control.create_sandbox(&principal, CreateInput::default()).await });
    gate.reached().await;
    let control = fixture.control.clone();
    let stopping = tokio::spawn(async move { control.shutdown().await });
    tokio::task::yield_now().await;
    assert!(!stopping.is_finished());
    gate.open();
    atoll_testkit::within("the shutdown", stopping).await.unwrap();
    // The answer may find the database closed; the row does not.
    let _ = creating.await.unwrap();
    let mut fixture = fixture;
    fixture.restart().await;
    let page = fixture.control.list_sandboxes(&fixture.principal, None, None).await.unwrap();
    assert_eq!(page.items.iter().map(|s| s.status).collect::<Vec<_>>(), [SandboxStatus::Running]);
    assert!(fixture.control.store().open_operations().await.unwrap().is_empty());
}
