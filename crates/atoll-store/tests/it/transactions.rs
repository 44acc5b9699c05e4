//! A change and its audit row are one: both hold or neither does.

use atoll_domain::SandboxStatus;
use atoll_domain::audit::AuditAction;
use atoll_domain::host::EventSeq;
use atoll_domain::{HostId, Incarnation};
use atoll_store::Step;

use crate::support::{entry, facts, insert, open, sandbox, team};

#[tokio::test]
async fn a_dropped_transaction_changes_nothing() {
    let db = open().await;
    let row = sandbox(1, 10);
    let tx = db.store.begin(Step::Uses).await.unwrap();
    tx.insert_sandbox(&row).await.unwrap();
    tx.audit(&entry(&row, AuditAction::SandboxCreate, 10)).await.unwrap();
    drop(tx);
    assert_eq!(db.store.sandbox(&row.id).await.unwrap(), None);
    assert!(db.store.audit(&team(1), 10).await.unwrap().is_empty());
    // The one writing connection is free again.
    insert(&db.store, &row).await;
}

#[tokio::test]
async fn nothing_is_seen_before_the_commit() {
    let db = open().await;
    let row = sandbox(1, 10);
    let tx = db.store.begin(Step::Uses).await.unwrap();
    tx.insert_sandbox(&row).await.unwrap();
    assert_eq!(db.store.sandbox(&row.id).await.unwrap(), None);
    tx.commit().await.unwrap();
    assert_eq!(db.store.sandbox(&row.id).await.unwrap(), Some(row));
}

#[tokio::test]
async fn a_failed_audit_insert_takes_the_change_with_it() {
    let db = open().await;
    let row = sandbox(1, 10);
    insert(&db.store, &row).await;
    db.store.fail_audit_inserts(true).await.unwrap();
    let tx = db.store.begin(Step::Uses).await.unwrap();
    assert!(tx.mark_over(&row.id, Incarnation::FIRST, SandboxStatus::Stopped, "x", 11).await.unwrap());
    assert!(tx.audit(&entry(&row, AuditAction::SandboxDestroy, 11)).await.is_err());
    drop(tx);
    assert_eq!(db.store.sandbox(&row.id).await.unwrap().unwrap().status, SandboxStatus::Pending);
    db.store.fail_audit_inserts(false).await.unwrap();
    let tx = db.store.begin(Step::Uses).await.unwrap();
    tx.audit(&entry(&row, AuditAction::SandboxDestroy, 12)).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(db.store.audit(&team(1), 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn audit_rows_come_back_whole_and_the_newest_first_even_within_one_microsecond() {
    let db = open().await;
    let row = sandbox(1, 10);
    let tx = db.store.begin(Step::Uses).await.unwrap();
    let actions = [AuditAction::SandboxCreate, AuditAction::SandboxDestroy, AuditAction::SandboxEnded];
    for action in actions {
        tx.audit(&entry(&row, action, 77)).await.unwrap();
    }
    tx.commit().await.unwrap();
    let rows = db.store.audit(&team(1), 10).await.unwrap();
    assert_eq!(rows.iter().map(|r| r.action.as_str()).collect::<Vec<_>>(), ["ended", "destroy", "create"]);
    assert_eq!(rows[1].status, "warning");
    assert_eq!((rows[2].actor_id.as_deref(), rows[2].at), (Some("key-1"), 77));
    assert_eq!(rows[2].metadata["template"], "base");
    assert!(db.store.audit(&team(2), 10).await.unwrap().is_empty(), "another team's log");
}

#[tokio::test]
async fn an_event_counts_once() {
    let db = open().await;
    let host = HostId::from_random([1; 16]);
    let tx = db.store.begin(Step::Uses).await.unwrap();
    tx.insert_own_host(&host, 1).await.unwrap();
    assert!(tx.see_event(&host, EventSeq(2)).await.unwrap());
    assert!(!tx.see_event(&host, EventSeq(2)).await.unwrap());
    assert!(!tx.see_event(&host, EventSeq(1)).await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(db.store.events_seen(&host).await.unwrap(), EventSeq(2));
}

#[tokio::test]
async fn writers_wait_for_each_other_and_none_is_lost() {
    let db = open().await;
    let tasks: Vec<_> = (0..40)
        .map(|n| {
            let store = db.store.clone();
            tokio::spawn(async move {
                let row = sandbox(n, 5);
                let tx = store.begin(Step::Uses).await.unwrap();
                tx.insert_sandbox(&row).await.unwrap();
                tx.mark_running(&facts(&row), 6).await.unwrap();
                tx.commit().await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(db.store.sandboxes(&team(1), None, 100).await.unwrap().items.len(), 40);
}
