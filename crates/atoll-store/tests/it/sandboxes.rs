//! What a sandbox's row may become, and what not any more.

use atoll_domain::host::Call;
use atoll_domain::{Incarnation, OperationId, SandboxStatus};
use atoll_store::{OperationKind, Step};

use crate::support::{facts, insert, open, sandbox};

#[tokio::test]
async fn a_row_comes_back_as_it_was_put_in() {
    let db = open().await;
    let row = sandbox(1, i64::MAX - 1);
    insert(&db.store, &row).await;
    assert_eq!(db.store.sandbox(&row.id).await.unwrap(), Some(row));
}

#[tokio::test]
async fn what_is_over_stays_over_and_is_told_once() {
    let db = open().await;
    let row = sandbox(1, 10);
    insert(&db.store, &row).await;
    let tx = db.store.begin(Step::Uses).await.unwrap();
    assert!(tx.mark_running(&facts(&row), 11).await.unwrap());
    assert!(!tx.mark_running(&facts(&row), 12).await.unwrap(), "it runs already");
    let (first, later) = (Incarnation::FIRST, Incarnation(0));
    assert!(!tx.mark_over(&row.id, later, SandboxStatus::Stopped, "x", 13).await.unwrap(), "an older life");
    assert!(!tx.mark_over(&row.id, first, SandboxStatus::Error, "x", 13).await.unwrap(), "it ran: no error now");
    assert!(tx.mark_over(&row.id, first, SandboxStatus::Stopped, "destroyed", 14).await.unwrap());
    assert!(!tx.mark_over(&row.id, first, SandboxStatus::Stopped, "again", 15).await.unwrap());
    assert!(!tx.mark_running(&facts(&row), 16).await.unwrap(), "nothing comes back from the dead");
    tx.commit().await.unwrap();
    let read = db.store.sandbox(&row.id).await.unwrap().unwrap();
    assert_eq!((read.status, read.reason.as_deref()), (SandboxStatus::Stopped, Some("destroyed")));
    assert_eq!((read.started_at, read.last_updated), (Some(11), 14));
    assert_eq!((read.guest_ip, read.host_ip), (None, None));
    assert!(db.store.sandboxes(&row.team, None, 10).await.unwrap().items.is_empty());
    assert!(db.store.sandboxes_on(&row.host).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_use_never_moves_backwards() {
    let db = open().await;
    let row = sandbox(1, 10);
    insert(&db.store, &row).await;
    let tx = db.store.begin(Step::Uses).await.unwrap();
    for at in [20, 30, 25] {
        tx.touch(&row.id, at).await.unwrap();
    }
    tx.commit().await.unwrap();
    assert_eq!(db.store.sandbox(&row.id).await.unwrap().unwrap().last_active_at, Some(30));
}

#[tokio::test]
async fn calls_are_open_until_they_are_finished() {
    let db = open().await;
    let row = sandbox(1, 10);
    let call = |n: u8| Call { operation: OperationId::from_random([n; 16]), incarnation: Incarnation::FIRST };
    let tx = db.store.begin(Step::Uses).await.unwrap();
    tx.begin_operation(&call(1), &row.id, OperationKind::Create, 1).await.unwrap();
    tx.begin_operation(&call(2), &row.id, OperationKind::Destroy, 2).await.unwrap();
    tx.begin_operation(&call(3), &sandbox(2, 1).id, OperationKind::Create, 3).await.unwrap();
    tx.finish_operation(&call(1).operation, 4).await.unwrap();
    tx.commit().await.unwrap();
    let open = db.store.open_operations().await.unwrap();
    assert_eq!(open.iter().map(|o| o.kind).collect::<Vec<_>>(), [OperationKind::Destroy, OperationKind::Create]);
    let tx = db.store.begin(Step::Uses).await.unwrap();
    tx.finish_operation(&call(2).operation, 5).await.unwrap();
    tx.commit().await.unwrap();
    let left = db.store.open_operations().await.unwrap();
    assert_eq!(left.iter().map(|o| o.id.clone()).collect::<Vec<_>>(), [call(3).operation]);
}

#[tokio::test]
async fn a_long_reason_is_cut_between_characters() {
    let db = open().await;
    let row = sandbox(1, 10);
    insert(&db.store, &row).await;
    let tx = db.store.begin(Step::Uses).await.unwrap();
    let reason = "\u{e4}".repeat(2000);
    tx.mark_over(&row.id, Incarnation::FIRST, SandboxStatus::Error, &reason, 11).await.unwrap();
    tx.commit().await.unwrap();
    let read = db.store.sandbox(&row.id).await.unwrap().unwrap();
    assert_eq!(read.reason.map(|reason| reason.chars().count()), Some(500));
}
