//! Create: either a running sandbox or none (defect 1), whatever fails and whoever goes away.

use std::collections::BTreeMap;

use atoll_control::sandboxes::CreateInput;
use atoll_control::{ControlError, Once};
use atoll_domain::SandboxStatus;
use atoll_domain::host::{HostError, Room};
use atoll_domain::ttl::{LifetimeChange, OnExpiry};
use atoll_store::KeyPlace;
use atoll_testkit::{ControlBox, Fault, Method, eventually};

#[tokio::test]
async fn a_sandbox_runs_with_the_defaults_and_its_create_is_in_the_log() {
    let fixture = ControlBox::start().await;
    let sandbox = fixture.sandbox().await;
    assert_eq!(sandbox.status, SandboxStatus::Running);
    assert_eq!((sandbox.template.as_str(), sandbox.lifetime.timeout_sec), ("base", 0));
    assert_eq!((sandbox.shape.vcpus, sandbox.shape.memory_mb, sandbox.shape.disk_mb), (1, 512, 5120));
    assert!(sandbox.started_at > Some(sandbox.created_at));
    assert_eq!(fixture.audit_of(sandbox.id.as_str()).await, ["create"]);
    assert!(fixture.control.store().open_operations().await.unwrap().is_empty());
}

#[tokio::test]
async fn minimal_is_another_name_of_base() {
    let fixture = ControlBox::start().await;
    let input = CreateInput { template: Some("minimal".into()), ..Default::default() };
    assert_eq!(fixture.control.create_sandbox(&fixture.principal, input).await.unwrap().template, "base");
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_a_running_sandbox_that_its_owner_can_find() {
    let fixture = ControlBox::start().await;
    let gate = fixture.host.hold(Method::Create);
    let (control, principal) = (fixture.control.clone(), fixture.principal.clone());
    let request = tokio::spawn(async move { control.create_sandbox(&principal, CreateInput::default()).await });
    gate.reached().await;
    request.abort();
    assert!(request.await.unwrap_err().is_cancelled());
    gate.open();
    let running = || async {
        let page = fixture.control.list_sandboxes(&fixture.principal, None, None).await.unwrap();
        page.items.into_iter().find(|s| s.status == SandboxStatus::Running)
    };
    let sandbox = eventually("the abandoned sandbox to run", running).await;
    assert_eq!(fixture.host.sandboxes(), std::slice::from_ref(&sandbox.id));
    assert_eq!(fixture.audit_of(sandbox.id.as_str()).await, ["create"]);
}

#[tokio::test]
async fn a_client_that_goes_away_from_a_create_that_fails_leaves_none() {
    let fixture = ControlBox::start().await;
    let gate = fixture.host.hold(Method::Create);
    let (control, principal) = (fixture.control.clone(), fixture.principal.clone());
    let request = tokio::spawn(async move { control.create_sandbox(&principal, CreateInput::default()).await });
    gate.reached().await;
    request.abort();
    let id = fixture.host.sandboxes().pop().unwrap();
    fixture.host.lose_sandbox(&id);
    gate.open();
    let over = || async { fixture.control.store().sandbox(&id).await.unwrap().filter(|s| s.status.is_over()) };
    assert_eq!(eventually("the row to say so", over).await.status, SandboxStatus::Error);
    assert!(fixture.host.sandboxes().is_empty());
    assert_eq!(fixture.audit_of(id.as_str()).await, ["create", "create_failed"]);
}

#[tokio::test]
async fn a_host_that_refuses_leaves_an_error_with_its_reason_and_nothing_listed() {
    let fixture = ControlBox::start().await;
    let short = HostError::NoCapacity { what: "memory_mb".into(), needed: 612, available: 3 };
    fixture.host.plan(Method::Create, Fault::Refuse(short.clone()));
    let made = fixture.control.create_sandbox(&fixture.principal, CreateInput::default()).await;
    assert!(matches!(made, Err(ControlError::Host(HostError::NoCapacity { needed: 612, .. }))), "{made:?}");
    assert!(fixture.control.list_sandboxes(&fixture.principal, None, None).await.unwrap().items.is_empty());
    let rows = fixture.control.store().audit(&fixture.first.team_id, 10).await.unwrap();
    let row = fixture.control.sandbox(&fixture.principal, rows[0].resource_id.as_deref().unwrap()).await.unwrap();
    assert_eq!((row.status, row.reason), (SandboxStatus::Error, Some(short.to_string())));
    assert_eq!(fixture.audit_of(row.id.as_str()).await, ["create", "create_failed"]);
}

#[tokio::test]
async fn a_failed_audit_insert_makes_no_sandbox_and_asks_no_host() {
    let fixture = ControlBox::start().await;
    fixture.control.store().fail_audit_inserts(true).await.unwrap();
    let made = fixture.control.create_sandbox(&fixture.principal, CreateInput::default()).await;
    assert!(matches!(made, Err(ControlError::Store(_))), "{made:?}");
    assert_eq!(fixture.host.calls(Method::Create), 0);
    assert!(fixture.control.list_sandboxes(&fixture.principal, None, None).await.unwrap().items.is_empty());
    assert!(fixture.control.store().open_operations().await.unwrap().is_empty());
    fixture.control.store().fail_audit_inserts(false).await.unwrap();
    fixture.sandbox().await;
}

#[tokio::test]
async fn bad_input_is_refused_before_anything_is_written_or_asked() {
    let fixture = ControlBox::start().await;
    let input = |change: fn(&mut CreateInput)| {
        let mut input = CreateInput::default();
        change(&mut input);
        input
    };
    let cases: [(&str, CreateInput); 12] = [
        ("vcpus", input(|i| i.vcpus = Some(-1))),
        ("vcpus", input(|i| i.vcpus = Some(9))),
        ("vcpus", input(|i| i.vcpus = Some(i64::MAX))),
        ("memory_mb", input(|i| i.memory_mb = Some(1))),
        ("memory_mb", input(|i| i.memory_mb = Some(8193))),
        ("disk_mb", input(|i| i.disk_mb = Some(-5))),
        ("timeout_sec", input(|i| i.lifetime.timeout_sec = Some(-1))),
        ("network", input(|i| i.network = Some("lan".into()))),
        ("template", input(|i| i.template = Some("../base".into()))),
        ("envs", input(|i| i.envs = BTreeMap::from([("A=B".into(), String::new())]))),
        ("metadata", input(|i| i.metadata = BTreeMap::from([(String::new(), "x".into())]))),
        ("metadata", input(|i| i.metadata = (0..33).map(|n| (n.to_string(), String::new())).collect())),
    ];
    for (field, input) in cases {
        match fixture.control.create_sandbox(&fixture.principal, input).await {
            Err(ControlError::Invalid(invalid)) => assert_eq!(invalid.field, field),
            other => panic!("{field}: {other:?}"),
        }
    }
    let unknown = input(|i| i.template = Some("nonesuch".into()));
    let made = fixture.control.create_sandbox(&fixture.principal, unknown).await;
    assert!(matches!(made, Err(ControlError::NotFound { .. })), "{made:?}");
    assert_eq!(fixture.host.calls(Method::Create), 0);
    assert!(fixture.control.store().audit(&fixture.first.team_id, 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_there_is_no_room_for_is_refused_before_anything_is_written_or_asked() {
    let fixture = ControlBox::start().await;
    let whole = atoll_testkit::ids::capacity().room;
    let none = LifetimeChange::default();
    let idle = LifetimeChange { timeout_sec: Some(60), ..none };
    let longest = LifetimeChange { max_lifetime_sec: Some(60), ..none };
    let full = Room { disk_free_mb: 511, ..whole };
    // Enough for a create, not for the 512 MiB of a guest and what a pause writes beside them.
    let nearly = Room { disk_free_mb: 575, ..whole };
    let cases = [
        (full, none, "disk_mb"),
        (full, idle, "disk_mb"),
        (nearly, idle, "disk_mb"),
        (nearly, longest, "disk_mb"),
        (Room { disk_free_mb: 2000, pause_mb: 1425, ..whole }, idle, "disk_mb"),
        (Room { available_mb: 400, ..whole }, none, "memory_mb"),
        (Room { promised_mb: 12_000, ..whole }, none, "memory_mb"),
    ];
    let team = fixture.principal.team().unwrap().clone();
    let place = KeyPlace { team, route: "create".into(), key: "k".into() };
    let create = |lifetime: LifetimeChange| {
        let input = CreateInput { lifetime, ..CreateInput::default() };
        let once = Once::new("k", format!("{lifetime:?}")).unwrap();
        fixture.control.create_sandbox_once(&fixture.principal, input, Some(once))
    };
    let store = fixture.control.store();
    for (room, lifetime, short) in cases {
        fixture.host.set_capacity(|capacity| capacity.room = room);
        match create(lifetime).await {
            Err(ControlError::Host(HostError::NoCapacity { what, needed, available })) => {
                assert!(what == short && available < needed, "{room:?}: {what}, {available} of {needed}");
            }
            other => panic!("{room:?}: {other:?}"),
        }
        assert!(store.audit(&fixture.first.team_id, 10).await.unwrap().is_empty(), "{room:?}");
        assert!(store.open_operations().await.unwrap().is_empty(), "{room:?}");
        assert_eq!(store.kept_request(&place, 0).await.unwrap(), None, "{room:?}");
    }
    let listed = fixture.control.list_sandboxes(&fixture.principal, None, None).await.unwrap();
    assert!(listed.items.is_empty(), "{listed:?}");
    assert_eq!(fixture.host.calls(Method::Create), 0);
    // What no limit pauses needs no more than that.
    fixture.host.set_capacity(|capacity| capacity.room = nearly);
    let ends = LifetimeChange { on_expiry: Some(OnExpiry::Destroy), ..idle };
    assert_eq!(create(ends).await.unwrap().value.status, SandboxStatus::Running);
    assert_eq!(fixture.sandbox().await.status, SandboxStatus::Running);
}

#[tokio::test]
async fn a_create_and_its_destroy_at_once_leave_nothing() {
    let fixture = ControlBox::start().await;
    let gate = fixture.host.hold(Method::Create);
    let (control, principal) = (fixture.control.clone(), fixture.principal.clone());
    let creating = tokio::spawn(async move { control.create_sandbox(&principal, CreateInput::default()).await });
    gate.reached().await;
    let id = fixture.host.sandboxes().pop().unwrap();
    fixture.control.destroy_sandbox(&fixture.principal, id.as_str()).await.unwrap();
    gate.open();
    assert!(creating.await.unwrap().is_err());
    assert!(fixture.host.sandboxes().is_empty());
    let row = fixture.control.sandbox(&fixture.principal, id.as_str()).await.unwrap();
    assert_eq!(row.status, SandboxStatus::Stopped);
    assert_eq!(fixture.audit_of(id.as_str()).await, ["create", "destroy"]);
    assert!(fixture.control.store().open_operations().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_destroy_that_overtakes_the_create_on_its_way_to_the_host_wins() {
    let fixture = ControlBox::start().await;
    // The host has made it, but the answer is still on its way when it is destroyed.
    let gate = fixture.host.hold_answer(Method::Create);
    let (control, principal) = (fixture.control.clone(), fixture.principal.clone());
    let creating = tokio::spawn(async move { control.create_sandbox(&principal, CreateInput::default()).await });
    gate.reached().await;
    let id = fixture.host.sandboxes().pop().unwrap();
    fixture.control.destroy_sandbox(&fixture.principal, id.as_str()).await.unwrap();
    gate.open();
    let made = creating.await.unwrap();
    assert!(matches!(made, Err(ControlError::NotRunning { status: SandboxStatus::Stopped, .. })), "{made:?}");
    assert!(fixture.host.sandboxes().is_empty());
    let row = fixture.control.sandbox(&fixture.principal, id.as_str()).await.unwrap();
    assert_eq!(row.status, SandboxStatus::Stopped);
}

#[tokio::test]
async fn a_lost_reply_leaves_no_sandbox_without_an_owner() {
    let fixture = ControlBox::start().await;
    fixture.host.plan(Method::Create, Fault::LoseReply);
    let made = fixture.control.create_sandbox(&fixture.principal, CreateInput::default()).await;
    assert!(made.is_err());
    atoll_control::background::reconcile::activate(&fixture.control).await.unwrap();
    assert!(fixture.host.sandboxes().is_empty());
    assert!(fixture.control.list_sandboxes(&fixture.principal, None, None).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn the_inside_of_a_host_is_in_no_reason_and_no_history() {
    let fixture = ControlBox::start().await;
    let inside = "/var/lib/atoll/keys/secret: permission denied";
    for error in [HostError::Failed(inside.into()), HostError::Unavailable(inside.into())] {
        fixture.host.plan(Method::Create, Fault::Refuse(error));
        fixture.control.create_sandbox(&fixture.principal, CreateInput::default()).await.unwrap_err();
        let rows = fixture.control.store().audit(&fixture.first.team_id, 10).await.unwrap();
        let id = rows[0].resource_id.clone().unwrap();
        let row = fixture.control.sandbox(&fixture.principal, &id).await.unwrap();
        let history = fixture.control.sandbox_history(&fixture.principal, &id, None).await.unwrap();
        assert!(history.iter().any(|happened| happened.reason.is_some()), "{history:?}");
        let told = format!("{row:?} {history:?} {rows:?}");
        assert!(row.reason.is_some() && !told.contains("secret"), "{told}");
    }
}

#[tokio::test]
async fn the_database_keeps_no_digest_that_a_variable_could_be_guessed_from() {
    let fixture = ControlBox::start().await;
    let input = CreateInput { envs: [("TOKEN".to_owned(), "hunter2".to_owned())].into(), ..CreateInput::default() };
    let request = r#"{"envs":{"TOKEN":"hunter2"}}"#;
    let once = || Once::new("k", request.to_owned()).unwrap();
    let made = fixture.control.create_sandbox_once(&fixture.principal, input.clone(), Some(once())).await.unwrap();
    let team = fixture.principal.team().unwrap().clone();
    let place = KeyPlace { team, route: "create".into(), key: "k".into() };
    let kept = fixture.control.store().kept_request(&place, 0).await.unwrap().unwrap();
    assert_ne!(kept.digest, blake3::hash(request.as_bytes()).to_hex().to_string());
    let again = fixture.control.create_sandbox_once(&fixture.principal, input, Some(once())).await.unwrap();
    assert!(again.replayed && again.value.id == made.value.id);
}
