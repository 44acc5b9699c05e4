//! Records and host are brought together, and nothing that is under way is taken for lost (defects 2 and 3).

use atoll_control::ControlError;
use atoll_control::background::reconcile::{Status, activate};
use atoll_control::sandboxes::CreateInput;
use atoll_domain::host::HostError;
use atoll_domain::ttl::LifetimeChange;
use atoll_domain::{Incarnation, SandboxId, SandboxStatus};
use atoll_store::OperationKind;
use atoll_testkit::{ControlBox, Fault, Method, eventually};
use tokio::task::JoinHandle;

use crate::pause::{pause, row, status};

/// A comparison beside the test.
fn begin(fixture: &ControlBox) -> JoinHandle<Result<Status, ControlError>> {
    let control = fixture.control.clone();
    tokio::spawn(async move { activate(&control).await })
}

/// A comparison that takes the host's list, looks at it when `meanwhile` is over, and finds nothing to do.
async fn compare_after(fixture: &ControlBox, meanwhile: impl Future<Output = ()>) {
    let gate = fixture.host.hold_answer(Method::List);
    let comparing = begin(fixture);
    gate.reached().await;
    meanwhile.await;
    gate.open();
    assert_eq!(comparing.await.unwrap().unwrap(), Status::default());
}

async fn resume(fixture: &ControlBox, id: &SandboxId) {
    fixture.control.resume_sandbox(&fixture.principal, id.as_str(), None).await.unwrap();
}

/// One that its host has paused and whose record says that it runs, as the answer was lost.
async fn paused_unheard(fixture: &ControlBox) -> SandboxId {
    let id = fixture.sandbox().await.id;
    fixture.host.plan(Method::Pause, Fault::LoseReply);
    assert!(pause(fixture, &id).await.is_err());
    assert_eq!(status(fixture, &id).await, SandboxStatus::Running);
    id
}

/// The kinds of the calls that have no outcome yet.
async fn open(fixture: &ControlBox) -> Vec<OperationKind> {
    let open = fixture.control.store().open_operations().await.unwrap();
    open.into_iter().map(|call| call.kind).collect()
}

#[tokio::test]
async fn what_agrees_is_left_alone() {
    let fixture = ControlBox::start().await;
    let sandbox = fixture.sandbox().await;
    assert_eq!(activate(&fixture.control).await.unwrap(), Status::default());
    assert_eq!(fixture.control.sandbox(&fixture.principal, sandbox.id.as_str()).await.unwrap(), sandbox);
}

#[tokio::test]
async fn a_sandbox_that_was_created_between_the_two_readings_is_not_marked() {
    let fixture = ControlBox::start().await;
    // The host's list is taken, but its answer arrives only after a create has begun and ended.
    let gate = fixture.host.hold_answer(Method::List);
    let control = fixture.control.clone();
    let reconciling = tokio::spawn(async move { activate(&control).await });
    gate.reached().await;
    let sandbox = fixture.sandbox().await;
    gate.open();
    assert_eq!(reconciling.await.unwrap().unwrap(), Status::default());
    let row = fixture.control.sandbox(&fixture.principal, sandbox.id.as_str()).await.unwrap();
    assert_eq!(row.status, SandboxStatus::Running);
    assert_eq!(fixture.host.sandboxes(), [sandbox.id]);
}

#[tokio::test]
async fn a_create_that_the_host_has_finished_while_the_list_was_on_its_way_is_not_marked() {
    let fixture = ControlBox::start().await;
    let creating_gate = fixture.host.hold(Method::Create);
    let (control, principal) = (fixture.control.clone(), fixture.principal.clone());
    let creating = tokio::spawn(async move { control.create_sandbox(&principal, CreateInput::default()).await });
    creating_gate.reached().await;
    // Pending in the records, starting on the host, and done with before the list's answer is looked at.
    let gate = fixture.host.hold_answer(Method::List);
    let control = fixture.control.clone();
    let reconciling = tokio::spawn(async move { activate(&control).await });
    gate.reached().await;
    creating_gate.open();
    let sandbox = creating.await.unwrap().unwrap();
    gate.open();
    assert_eq!(reconciling.await.unwrap().unwrap(), Status::default());
    let row = fixture.control.sandbox(&fixture.principal, sandbox.id.as_str()).await.unwrap();
    assert_eq!(row.status, SandboxStatus::Running);
}

#[tokio::test]
async fn a_sandbox_that_was_destroyed_between_the_two_readings_gets_no_second_row() {
    let fixture = ControlBox::start().await;
    let sandbox = fixture.sandbox().await;
    let gate = fixture.host.hold_answer(Method::List);
    let control = fixture.control.clone();
    let reconciling = tokio::spawn(async move { activate(&control).await });
    gate.reached().await;
    fixture.control.destroy_sandbox(&fixture.principal, sandbox.id.as_str()).await.unwrap();
    gate.open();
    reconciling.await.unwrap().unwrap();
    assert_eq!(fixture.audit_of(sandbox.id.as_str()).await, ["create", "destroy"]);
}

#[tokio::test]
async fn a_pause_and_a_resume_between_the_two_readings_stay_as_they_were_written() {
    let fixture = ControlBox::start().await;
    let id = fixture.sandbox().await.id;
    // The host's list says that it runs, that it is paused, that it runs in its next life: each is over when it is looked at.
    compare_after(&fixture, async {
        drop(pause(&fixture, &id).await.unwrap());
    })
    .await;
    assert_eq!(status(&fixture, &id).await, SandboxStatus::Paused);

    compare_after(&fixture, async {
        resume(&fixture, &id).await;
    })
    .await;
    assert_eq!(status(&fixture, &id).await, SandboxStatus::Running);

    compare_after(&fixture, async {
        drop(pause(&fixture, &id).await.unwrap());
        resume(&fixture, &id).await;
        drop(pause(&fixture, &id).await.unwrap());
    })
    .await;
    let row = row(&fixture, &id).await;
    assert_eq!((row.status, row.incarnation), (SandboxStatus::Paused, Incarnation(3)));
    let told = ["create", "pause", "resume", "pause", "resume", "pause"];
    assert_eq!(fixture.audit_of(id.as_str()).await, told);
    assert_eq!(open(&fixture).await, []);
}

#[tokio::test]
async fn what_the_record_did_not_know_when_it_was_read_is_not_written_over_what_came_after() {
    let fixture = ControlBox::start().await;
    // Running by its record, paused by the list; resumed before that is looked at.
    let id = paused_unheard(&fixture).await;
    compare_after(&fixture, async {
        resume(&fixture, &id).await;
    })
    .await;
    let resumed = row(&fixture, &id).await;
    assert_eq!((resumed.status, resumed.incarnation), (SandboxStatus::Running, Incarnation(2)));
    // Paused by its record, in its next life by the list; that life is paused before that is looked at.
    pause(&fixture, &id).await.unwrap();
    fixture.host.plan(Method::Resume, Fault::LoseReply);
    let lost = fixture.control.resume_sandbox(&fixture.principal, id.as_str(), None).await;
    assert!(lost.is_err());
    compare_after(&fixture, async {
        resume(&fixture, &id).await;
        drop(pause(&fixture, &id).await.unwrap());
    })
    .await;
    let paused = row(&fixture, &id).await;
    assert_eq!((paused.status, paused.incarnation), (SandboxStatus::Paused, Incarnation(3)));
    assert_eq!(open(&fixture).await, []);
}

#[tokio::test]
async fn a_resume_that_begins_while_an_outcome_is_looked_at_keeps_its_call_open() {
    let fixture = ControlBox::start().await;
    let id = paused_unheard(&fixture).await;
    // It knows by now that nobody is at work on it, and that its host has paused it.
    let gate = fixture.host.hold_answer(Method::LatestEvent);
    let comparing = begin(&fixture);
    gate.reached().await;
    let held = fixture.host.hold(Method::Resume);
    let (control, principal, target) = (fixture.control.clone(), fixture.principal.clone(), id.clone());
    let resuming = tokio::spawn(async move { control.resume_sandbox(&principal, target.as_str(), None).await });
    held.reached().await;
    gate.open();
    assert_eq!(comparing.await.unwrap().unwrap(), Status::default(), "who resumes it has written the pause down");
    assert_eq!(open(&fixture).await, [OperationKind::Resume]);
    held.open();
    assert_eq!(resuming.await.unwrap().unwrap().incarnation, Incarnation(2));
    assert_eq!(open(&fixture).await, []);
}

#[tokio::test]
async fn a_destroy_that_begins_while_an_outcome_is_looked_at_is_not_forgotten_though_atoll_is_killed() {
    let mut fixture = ControlBox::start().await;
    let id = paused_unheard(&fixture).await;
    let gate = fixture.host.hold_answer(Method::LatestEvent);
    let comparing = begin(&fixture);
    gate.reached().await;
    let never_opened = fixture.host.hold(Method::Destroy);
    let (control, principal, target) = (fixture.control.clone(), fixture.principal.clone(), id.clone());
    tokio::spawn(async move { control.destroy_sandbox(&principal, target.as_str()).await });
    never_opened.reached().await;
    gate.open();
    assert_eq!(comparing.await.unwrap().unwrap().paused, std::slice::from_ref(&id));
    assert_eq!(open(&fixture).await, [OperationKind::Destroy]);
    // Killed before its host has heard of it, and stopped before the next one has carried it out.
    fixture.restart().await;
    fixture.host.plan(Method::Destroy, Fault::Refuse(HostError::Stopping));
    fixture.start_loops();
    let over = || async { (status(&fixture, &id).await == SandboxStatus::Stopped).then_some(()) };
    eventually("the destroy to be carried out", over).await;
    assert!(fixture.host.sandboxes().is_empty());
    assert_eq!(fixture.audit_of(id.as_str()).await, ["create", "pause", "destroy"]);
    assert_eq!(open(&fixture).await, []);
}

#[tokio::test]
async fn limits_that_the_host_has_not_heard_of_are_still_told_after_a_comparison() {
    let fixture = ControlBox::start().await;
    let id = paused_unheard(&fixture).await;
    fixture.host.plan(Method::SetLifetime, Fault::Refuse(HostError::Unavailable("away".into())));
    let change = LifetimeChange { timeout_sec: Some(9), ..LifetimeChange::default() };
    assert!(fixture.control.update_sandbox(&fixture.principal, id.as_str(), &change).await.is_err());
    assert_eq!(activate(&fixture.control).await.unwrap().paused, std::slice::from_ref(&id));
    assert_eq!(open(&fixture).await, [OperationKind::Lifetime]);
    fixture.start_loops();
    let told = || async { fixture.host.lifetime_of(&id).filter(|lifetime| lifetime.timeout_sec == 9) };
    eventually("the host to hear of it", told).await;
}

#[tokio::test]
async fn a_lost_sandbox_is_marked_stopped_once() {
    let fixture = ControlBox::start().await;
    let (lost, kept) = (fixture.sandbox().await, fixture.sandbox().await);
    fixture.host.lose_sandbox(&lost.id);
    assert_eq!(activate(&fixture.control).await.unwrap().over, std::slice::from_ref(&lost.id));
    assert_eq!(activate(&fixture.control).await.unwrap(), Status::default());
    assert_eq!(fixture.audit_of(lost.id.as_str()).await, ["create", "ended"]);
    let row = fixture.control.sandbox(&fixture.principal, kept.id.as_str()).await.unwrap();
    assert_eq!(row.status, SandboxStatus::Running);
}

#[tokio::test]
async fn a_create_cut_off_by_a_crash_is_mended_at_the_next_start() {
    let mut fixture = ControlBox::start().await;
    let ids = cut_off_two_creates(&fixture).await;
    // The host finished one of them and never heard of the other.
    fixture.host.lose_sandbox(&ids[1]);
    fixture.restart().await;
    let status = activate(&fixture.control).await.unwrap();
    assert_eq!((status.running, status.over), (vec![ids[0].clone()], vec![ids[1].clone()]));
    let status_of = |n: usize| fixture.control.store().sandbox(&ids[n]);
    assert_eq!(status_of(0).await.unwrap().unwrap().status, SandboxStatus::Running);
    assert_eq!(status_of(1).await.unwrap().unwrap().status, SandboxStatus::Error);
    assert_eq!(fixture.audit_of(ids[1].as_str()).await, ["create", "create_failed"]);
    assert!(fixture.control.store().open_operations().await.unwrap().is_empty());
}

/// Two creates whose answers never come, as if the process had been killed: pending rows, running VMs.
async fn cut_off_two_creates(fixture: &ControlBox) -> Vec<atoll_domain::SandboxId> {
    for n in 1..=2 {
        let _never_opened = fixture.host.hold_answer(Method::Create);
        let (control, principal) = (fixture.control.clone(), fixture.principal.clone());
        tokio::spawn(async move { control.create_sandbox(&principal, CreateInput::default()).await });
        let made = || async { (fixture.host.sandboxes().len() == n).then_some(()) };
        eventually("the host to make it", made).await;
    }
    let mut rows = fixture.control.list_sandboxes(&fixture.principal, None, None).await.unwrap().items;
    rows.sort_by_key(|row| row.created_at);
    assert!(rows.iter().all(|row| row.status == SandboxStatus::Pending));
    rows.into_iter().map(|row| row.id).collect()
}

#[tokio::test]
async fn what_nobody_wants_is_ended_on_the_host() {
    let fixture = ControlBox::start().await;
    let unknown = atoll_testkit::ids::sandbox();
    let driver: &dyn atoll_control::ports::HostDriver = &fixture.host;
    let call = atoll_testkit::ids::call(atoll_domain::Incarnation::FIRST);
    driver.create(call, atoll_testkit::ids::request(&unknown)).await.unwrap();
    let wanted = fixture.sandbox().await;
    assert_eq!(activate(&fixture.control).await.unwrap().destroyed, [unknown]);
    assert_eq!(fixture.host.sandboxes(), [wanted.id]);
}

#[tokio::test]
async fn a_host_that_does_not_answer_changes_nothing() {
    let fixture = ControlBox::start().await;
    let sandbox = fixture.sandbox().await;
    fixture.host.die();
    assert!(activate(&fixture.control).await.is_err());
    fixture.host.wake();
    fixture.host.plan(Method::List, Fault::Refuse(HostError::Failed("half a list".into())));
    assert!(activate(&fixture.control).await.is_err());
    let row = fixture.control.sandbox(&fixture.principal, sandbox.id.as_str()).await.unwrap();
    assert_eq!(row, sandbox);
}

#[tokio::test]
async fn what_a_destroy_could_not_give_back_is_destroyed_again_without_being_asked() {
    let fixture = ControlBox::start().await;
    let (stuck, kept) = (fixture.sandbox().await, fixture.sandbox().await);
    fixture.host.stick(&stuck.id);
    // Still there when it fails again.
    fixture.host.plan(Method::Destroy, Fault::Refuse(HostError::Failed("a mount is busy".into())));
    assert_eq!(activate(&fixture.control).await.unwrap(), Status::default());
    assert_eq!(activate(&fixture.control).await.unwrap().destroyed, std::slice::from_ref(&stuck.id));
    assert_eq!(fixture.host.sandboxes(), [kept.id]);
    // Its record said that it runs: the next round writes down that it does not.
    assert_eq!(activate(&fixture.control).await.unwrap().over, std::slice::from_ref(&stuck.id));
    let row = fixture.control.sandbox(&fixture.principal, stuck.id.as_str()).await.unwrap();
    assert_eq!(row.status, SandboxStatus::Stopped);
}

#[tokio::test]
async fn an_end_that_the_host_told_of_keeps_its_reason_however_late_the_events_come() {
    let fixture = ControlBox::start().await;
    let sandbox = fixture.sandbox().await;
    fixture.host.end_sandbox(&sandbox.id, "the guest powered off or rebooted");
    let gate = fixture.host.hold(Method::Watch);
    fixture.start_loops();
    gate.reached().await;
    // The comparison has the host's list by now, without the sandbox.
    eventually("a comparison", async || (fixture.host.calls(Method::LatestEvent) > 0).then_some(())).await;
    gate.open();
    let row = eventually("the end in the records", async || {
        let row = fixture.control.sandbox(&fixture.principal, sandbox.id.as_str()).await.unwrap();
        (row.status == SandboxStatus::Stopped).then_some(row)
    })
    .await;
    assert_eq!(row.reason.as_deref(), Some("the guest powered off or rebooted"));
    assert_eq!(fixture.audit_of(sandbox.id.as_str()).await, ["create", "ended"]);
}
