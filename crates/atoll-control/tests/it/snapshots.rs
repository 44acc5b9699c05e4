//! Templates of sandboxes: a name belongs to a team, the new one stands before the old one goes, and nothing is lost in between
//! (defects 18, 19 and 35, and 2 of the security ones).

use atoll_control::ControlError;
use atoll_control::background::templates::{Status, activate};
use atoll_control::sandboxes::CreateInput;
use atoll_control::snapshots::SnapshotInput;
use atoll_domain::SandboxId;
use atoll_domain::host::HostError;
use atoll_domain::record::Template;
use atoll_guest_client::FileBody;
use atoll_testkit::{ControlBox, Fault, Method};

use crate::exec::command;
use crate::pause::{history, pause, status};

async fn snapshot(fixture: &ControlBox, id: &SandboxId, name: &str, overwrite: bool) -> Result<Template, ControlError> {
    let input = SnapshotInput { sandbox_id: id.to_string(), name: Some(name.into()), overwrite };
    fixture.control.create_snapshot(&fixture.principal, input).await.map(|made| made.template)
}

fn from(template: &str) -> CreateInput {
    CreateInput { template: Some(template.into()), ..Default::default() }
}

#[tokio::test]
async fn a_template_is_made_listed_started_from_and_deleted() {
    let fixture = ControlBox::start().await;
    let (control, principal) = (&fixture.control, &fixture.principal);
    let id = fixture.sandbox().await.id;
    control.write_file(principal, id.as_str(), "/root/kept", FileBody::bytes("kept")).await.unwrap();
    let made = snapshot(&fixture, &id, "warm", false).await.unwrap();
    assert_eq!(status(&fixture, &id).await.as_str(), "running", "it returns to the state that it had");
    assert_eq!(control.snapshots(principal, Some("snapshot")).await.unwrap(), std::slice::from_ref(&made));
    assert_eq!(control.snapshots(principal, Some("base")).await.unwrap(), []);
    assert_eq!(control.snapshot(principal, "warm").await.unwrap(), made);
    assert!(control.snapshots(principal, Some("x")).await.is_err());
    let copy = control.create_sandbox(principal, from("warm")).await.unwrap();
    assert_eq!((copy.template.as_str(), copy.shape), ("warm", made.shape));
    let read = control.exec(principal, copy.id.as_str(), command("cat", &["/root/kept"])).await.unwrap();
    assert_eq!(&read.stdout[..], b"kept");
    control.delete_snapshot(principal, "warm").await.unwrap();
    assert!(fixture.host.template_ids().is_empty());
    assert!(matches!(control.delete_snapshot(principal, "warm").await, Err(ControlError::NotFound { .. })));
    let read = control.exec(principal, copy.id.as_str(), command("cat", &["/root/kept"])).await.unwrap();
    assert_eq!(read.exit_code, 0, "what started from it goes on");
    assert!(matches!(control.create_sandbox(principal, from("warm")).await, Err(ControlError::NotFound { .. })));
    assert_eq!(fixture.audit_of("warm").await, ["create", "delete"]);
    assert_eq!(history(&fixture, &id).await, ["created", "started", "snapshotted"]);
}

#[tokio::test]
async fn an_overwrite_keeps_the_old_one_until_the_new_one_stands() {
    let fixture = ControlBox::start().await;
    let id = fixture.sandbox().await.id;
    let old = snapshot(&fixture, &id, "warm", false).await.unwrap();
    let taken = snapshot(&fixture, &id, "warm", false).await;
    assert!(matches!(taken, Err(ControlError::Conflict { .. })), "{taken:?}");
    fixture.host.plan(Method::MakeTemplate, Fault::Refuse(HostError::AgentBusy));
    let failed = snapshot(&fixture, &id, "warm", true).await;
    assert!(matches!(failed, Err(ControlError::Host(HostError::AgentBusy))), "{failed:?}");
    assert_eq!(fixture.control.snapshot(&fixture.principal, "warm").await.unwrap(), old, "the old one stands");
    assert_eq!(fixture.host.template_ids(), std::slice::from_ref(&old.id));
    for _ in 0..20 {
        snapshot(&fixture, &id, "warm", true).await.unwrap();
    }
    let new = fixture.control.snapshot(&fixture.principal, "warm").await.unwrap();
    assert_eq!(fixture.host.template_ids(), std::slice::from_ref(&new.id), "after 20 overwrites there is one");
    // An old one whose files cannot be removed now goes later, and its name is the new one's all the same.
    fixture.host.plan(Method::DropTemplate, Fault::Refuse(HostError::Failed("busy".into())));
    let newest = snapshot(&fixture, &id, "warm", true).await.unwrap();
    assert_eq!(fixture.host.template_ids().len(), 2);
    assert_eq!(activate(&fixture.control).await.unwrap().removed, [new.id]);
    assert_eq!(fixture.host.template_ids(), [newest.id]);
}

#[tokio::test]
async fn files_that_cannot_be_removed_are_an_error_and_the_template_stays() {
    let fixture = ControlBox::start().await;
    let id = fixture.sandbox().await.id;
    let made = snapshot(&fixture, &id, "warm", false).await.unwrap();
    fixture.host.plan(Method::DropTemplate, Fault::Refuse(HostError::Failed("busy".into())));
    assert!(fixture.control.delete_snapshot(&fixture.principal, "warm").await.is_err());
    assert_eq!(fixture.control.snapshot(&fixture.principal, "warm").await.unwrap(), made);
    assert_eq!(fixture.audit_of("warm").await, ["create", "delete", "delete_failed"]);
    fixture.control.delete_snapshot(&fixture.principal, "warm").await.unwrap();
    assert!(fixture.host.template_ids().is_empty());
}

#[tokio::test]
async fn names_belong_to_a_team_and_base_templates_keep_theirs() {
    let fixture = ControlBox::start().await;
    let other = fixture.other_team().await;
    let (control, principal) = (&fixture.control, &fixture.principal);
    let id = fixture.sandbox().await.id;
    let made = snapshot(&fixture, &id, "warm", false).await.unwrap();
    assert!(matches!(control.snapshot(&other, "warm").await, Err(ControlError::NotFound { .. })));
    assert!(matches!(control.delete_snapshot(&other, "warm").await, Err(ControlError::NotFound { .. })));
    assert!(matches!(control.create_sandbox(&other, from("warm")).await, Err(ControlError::NotFound { .. })));
    assert_eq!(control.snapshots(&other, None).await.unwrap(), []);
    let theirs = control.create_sandbox(&other, CreateInput::default()).await.unwrap();
    let input = |overwrite| SnapshotInput { sandbox_id: theirs.id.to_string(), name: Some("warm".into()), overwrite };
    control.create_snapshot(&other, input(false)).await.unwrap();
    control.create_snapshot(&other, input(true)).await.unwrap();
    assert_eq!(control.snapshot(principal, "warm").await.unwrap(), made, "another team's is untouched");
    for reserved in ["base", "minimal", "own"] {
        assert!(matches!(snapshot(&fixture, &id, reserved, true).await, Err(ControlError::Conflict { .. })));
    }
    for wrong in ["../x", "-x", "a/b", &"x".repeat(65)] {
        let refused = snapshot(&fixture, &id, wrong, false).await;
        assert!(matches!(refused, Err(ControlError::Invalid(invalid)) if invalid.field == "name"), "{wrong}");
    }
    let named = SnapshotInput { sandbox_id: id.to_string(), ..Default::default() };
    let named = control.create_snapshot(principal, named).await.unwrap();
    assert!(named.template.name.starts_with("template-") && named.stood_still_micros > 0);
    let foreign = SnapshotInput { sandbox_id: theirs.id.to_string(), ..Default::default() };
    assert!(matches!(control.create_snapshot(principal, foreign).await, Err(ControlError::NotFound { .. })));
}

#[tokio::test]
async fn a_copy_has_the_snapshots_size_and_may_have_a_larger_disk() {
    let fixture = ControlBox::start().await;
    let (control, principal) = (&fixture.control, &fixture.principal);
    let id = fixture.sandbox().await.id;
    let shape = snapshot(&fixture, &id, "warm", false).await.unwrap().shape;
    let input = |change: fn(&mut CreateInput)| {
        let mut input = from("warm");
        change(&mut input);
        input
    };
    for (field, wrong) in [
        ("vcpus", input(|i| i.vcpus = Some(2))),
        ("memory_mb", input(|i| i.memory_mb = Some(1024))),
        ("disk_mb", input(|i| i.disk_mb = Some(64))),
        ("boot", input(|i| i.boot = Some("cold".into()))),
    ] {
        let refused = control.create_sandbox(principal, wrong).await;
        assert!(
            matches!(&refused, Err(ControlError::Invalid(invalid)) if invalid.field == field),
            "{field}: {refused:?}"
        );
    }
    let larger = input(|i| {
        i.memory_mb = Some(512);
        i.disk_mb = Some(8192);
    });
    let copy = control.create_sandbox(principal, larger).await.unwrap();
    assert_eq!((copy.shape.vcpus, copy.shape.memory_mb, copy.shape.disk_mb), (shape.vcpus, shape.memory_mb, 8192));
}

#[tokio::test]
async fn what_was_not_quiesced_is_never_copied() {
    let fixture = ControlBox::start().await;
    let id = fixture.sandbox().await.id;
    fixture.host.make_unquiesced(&id);
    assert!(!pause(&fixture, &id).await.unwrap().sandbox.paused.unwrap().quiesced);
    let refused = snapshot(&fixture, &id, "warm", false).await;
    assert!(matches!(refused, Err(ControlError::Host(HostError::Unquiesced))), "{refused:?}");
    assert_eq!(status(&fixture, &id).await.as_str(), "paused");
    assert_eq!(fixture.audit_of("warm").await, ["create_failed"]);
}

#[tokio::test]
async fn what_was_cut_off_in_the_making_is_dropped_and_what_is_being_made_is_not() {
    let mut fixture = ControlBox::start().await;
    let id = fixture.sandbox().await.id;
    fixture.host.plan(Method::MakeTemplate, Fault::LoseReply);
    assert!(snapshot(&fixture, &id, "lost", false).await.is_err());
    assert_eq!(fixture.host.template_ids().len(), 1);
    assert_eq!(activate(&fixture.control).await.unwrap().lost.len(), 1);
    assert!(fixture.host.template_ids().is_empty());
    let gate = fixture.host.hold_answer(Method::MakeTemplate);
    let (control, principal) = (fixture.control.clone(), fixture.principal.clone());
    let input = SnapshotInput { sandbox_id: id.to_string(), name: Some("slow".into()), overwrite: false };
    let making = tokio::spawn(async move { control.create_snapshot(&principal, input).await });
    gate.reached().await;
    assert_eq!(activate(&fixture.control).await.unwrap(), Status::default(), "somebody waits for it");
    gate.open();
    making.await.unwrap().unwrap();
    // Killed between the host's work and its word.
    let _never_opened = fixture.host.hold_answer(Method::MakeTemplate);
    let (control, principal) = (fixture.control.clone(), fixture.principal.clone());
    let input = SnapshotInput { sandbox_id: id.to_string(), name: Some("cut".into()), overwrite: false };
    tokio::spawn(async move { control.create_snapshot(&principal, input).await });
    let there = || async { (fixture.host.template_ids().len() == 2).then_some(()) };
    atoll_testkit::eventually("the host to have it", there).await;
    fixture.restart().await;
    fixture.start_loops();
    let dropped = || async { (fixture.host.template_ids().len() == 1).then_some(()) };
    atoll_testkit::eventually("it to be dropped", dropped).await;
    assert_eq!(fixture.control.snapshots(&fixture.principal, None).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_paused_one_without_its_memory_says_what_to_do_and_that_helps() {
    let fixture = ControlBox::start().await;
    let id = fixture.sandbox().await.id;
    fixture.control.pause_sandbox(&fixture.principal, id.as_str(), Some("disk")).await.unwrap();
    let refused = snapshot(&fixture, &id, "warm", false).await.unwrap_err();
    assert!(matches!(refused, ControlError::NoMemoryToCopy { .. }), "{refused:?}");
    let said = refused.to_string();
    assert!(
        said.contains("only the disk was kept") && said.contains("make the template of it while it runs"),
        "{said}"
    );
    assert!(fixture.control.store().open_operations().await.unwrap().is_empty());
    fixture.control.resume_sandbox(&fixture.principal, id.as_str(), Some("disk")).await.unwrap();
    snapshot(&fixture, &id, "warm", false).await.unwrap();
}
