//! Destroy: done only when the host says so (defect 20), told once.

use atoll_control::ControlError;
use atoll_domain::host::HostError;
use atoll_domain::{Principal, SandboxStatus};
use atoll_testkit::{ControlBox, Fault, Method, eventually};

#[tokio::test]
async fn a_destroyed_sandbox_is_gone_listed_no_more_and_still_answers() {
    let fixture = ControlBox::start().await;
    let sandbox = fixture.sandbox().await;
    fixture.control.destroy_sandbox(&fixture.principal, sandbox.id.as_str()).await.unwrap();
    assert!(fixture.host.sandboxes().is_empty());
    let row = fixture.control.sandbox(&fixture.principal, sandbox.id.as_str()).await.unwrap();
    assert_eq!(row.status, SandboxStatus::Stopped);
    assert!(fixture.control.list_sandboxes(&fixture.principal, None, None).await.unwrap().items.is_empty());
    assert_eq!(fixture.audit_of(sandbox.id.as_str()).await, ["create", "destroy"]);
}

#[tokio::test]
async fn a_second_destroy_is_no_error_and_writes_no_second_row() {
    let fixture = ControlBox::start().await;
    let sandbox = fixture.sandbox().await;
    for _ in 0..3 {
        fixture.control.destroy_sandbox(&fixture.principal, sandbox.id.as_str()).await.unwrap();
    }
    assert_eq!(fixture.host.calls(Method::Destroy), 1);
    assert_eq!(fixture.audit_of(sandbox.id.as_str()).await, ["create", "destroy"]);
}

#[tokio::test]
async fn many_destroys_at_once_write_one_row() {
    let fixture = ControlBox::start().await;
    let sandbox = fixture.sandbox().await;
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (control, principal, id) = (fixture.control.clone(), fixture.principal.clone(), sandbox.id.clone());
            tokio::spawn(async move { control.destroy_sandbox(&principal, id.as_str()).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    assert_eq!(fixture.audit_of(sandbox.id.as_str()).await, ["create", "destroy"]);
    assert!(fixture.control.store().open_operations().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_error_of_the_host_is_an_error_and_the_row_stays_as_it_was() {
    let fixture = ControlBox::start().await;
    let before = fixture.sandbox().await;
    let errors = [
        HostError::Unavailable("gone".into()),
        HostError::Failed("a namespace is busy".into()),
        HostError::Timeout { what: "release".into(), limit_ms: 1 },
        HostError::WrongState { state: "in its life 4".into() },
    ];
    for error in errors {
        fixture.host.plan(Method::Destroy, Fault::Refuse(error.clone()));
        match fixture.control.destroy_sandbox(&fixture.principal, before.id.as_str()).await {
            // A state is no reason to refuse a destroy: the asker hears of a failure, not of a conflict.
            Err(ControlError::Host(said)) if matches!(error, HostError::WrongState { .. }) => {
                assert_eq!(said, HostError::Failed("a destroy was refused: in its life 4".into()));
            }
            Err(ControlError::Host(said)) => assert_eq!(said, error),
            other => panic!("{error}: {other:?}"),
        }
        let after = fixture.control.sandbox(&fixture.principal, before.id.as_str()).await.unwrap();
        assert_eq!(after, before);
    }
    assert_eq!(fixture.audit_of(before.id.as_str()).await, ["create"]);
    fixture.control.destroy_sandbox(&fixture.principal, before.id.as_str()).await.unwrap();
    assert_eq!(fixture.audit_of(before.id.as_str()).await, ["create", "destroy"]);
}

#[tokio::test]
async fn a_host_that_has_no_such_sandbox_is_a_success() {
    let fixture = ControlBox::start().await;
    let sandbox = fixture.sandbox().await;
    fixture.host.lose_sandbox(&sandbox.id);
    fixture.control.destroy_sandbox(&fixture.principal, sandbox.id.as_str()).await.unwrap();
    assert_eq!(fixture.audit_of(sandbox.id.as_str()).await, ["create", "destroy"]);
}

#[tokio::test]
async fn a_lost_reply_is_an_error_and_the_next_destroy_finds_it_done() {
    let fixture = ControlBox::start().await;
    let sandbox = fixture.sandbox().await;
    fixture.host.plan(Method::Destroy, Fault::LoseReply);
    assert!(fixture.control.destroy_sandbox(&fixture.principal, sandbox.id.as_str()).await.is_err());
    let row = fixture.control.sandbox(&fixture.principal, sandbox.id.as_str()).await.unwrap();
    assert_eq!(row.status, SandboxStatus::Running);
    fixture.control.destroy_sandbox(&fixture.principal, sandbox.id.as_str()).await.unwrap();
    assert_eq!(fixture.audit_of(sandbox.id.as_str()).await, ["create", "destroy"]);
}

#[tokio::test]
async fn a_failed_audit_insert_rolls_the_change_back() {
    let fixture = ControlBox::start().await;
    let sandbox = fixture.sandbox().await;
    fixture.control.store().fail_audit_inserts(true).await.unwrap();
    let ended = fixture.control.destroy_sandbox(&fixture.principal, sandbox.id.as_str()).await;
    assert!(matches!(ended, Err(ControlError::Store(_))), "{ended:?}");
    let row = fixture.control.sandbox(&fixture.principal, sandbox.id.as_str()).await.unwrap();
    assert_eq!(row.status, SandboxStatus::Running);
    assert_eq!(fixture.control.store().open_operations().await.unwrap().len(), 1, "the call is still open");
    fixture.control.store().fail_audit_inserts(false).await.unwrap();
    fixture.control.destroy_sandbox(&fixture.principal, sandbox.id.as_str()).await.unwrap();
    assert_eq!(fixture.audit_of(sandbox.id.as_str()).await, ["create", "destroy"]);
}

#[tokio::test]
async fn a_client_that_goes_away_does_not_stop_a_destroy() {
    let fixture = ControlBox::start().await;
    let sandbox = fixture.sandbox().await;
    let gate = fixture.host.hold(Method::Destroy);
    let (control, principal, id) = (fixture.control.clone(), fixture.principal.clone(), sandbox.id.clone());
    let request = tokio::spawn(async move { control.destroy_sandbox(&principal, id.as_str()).await });
    gate.reached().await;
    request.abort();
    assert!(request.await.unwrap_err().is_cancelled());
    gate.open();
    let stopped = || async {
        let row = fixture.control.store().sandbox(&sandbox.id).await.unwrap()?;
        (row.status == SandboxStatus::Stopped).then_some(())
    };
    eventually("the row to say so", stopped).await;
    assert!(fixture.host.sandboxes().is_empty());
    assert_eq!(fixture.audit_of(sandbox.id.as_str()).await, ["create", "destroy"]);
}

#[tokio::test]
async fn a_destroy_that_is_finished_after_a_restart_names_who_asked_for_it() {
    let mut fixture = ControlBox::start().await;
    let sandbox = fixture.sandbox().await;
    let _never_opened = fixture.host.hold_answer(Method::Destroy);
    let (control, principal, id) = (fixture.control.clone(), fixture.principal.clone(), sandbox.id.to_string());
    tokio::spawn(async move { control.destroy_sandbox(&principal, &id).await });
    eventually("the host to end it", || async { fixture.host.sandboxes().is_empty().then_some(()) }).await;
    fixture.restart().await;
    fixture.start_loops();
    let finished = || async {
        let rows = fixture.control.store().audit(&fixture.first.team_id, 100).await.unwrap();
        rows.into_iter().find(|row| row.action == "destroy")
    };
    let row = eventually("the audit row", finished).await;
    let Principal::ApiKey { id, .. } = &fixture.principal else { panic!("the first key is a key") };
    assert_eq!((row.actor_type.as_str(), row.actor_id), ("api_key", Some(id.to_string())));
    fixture.control.shutdown().await;
}
