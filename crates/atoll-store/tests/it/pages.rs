//! Pages: every row once, whatever their times and whatever happens in between (defect 27: a cursor cut to seconds skipped rows).

use std::collections::BTreeSet;

use atoll_domain::{Incarnation, SandboxId, SandboxStatus};
use atoll_store::{Position, Step, Store};
use proptest::prelude::*;

use crate::support::{Db, id, insert, open, sandbox, team};

async fn walk(store: &Store, limit: u32) -> Vec<SandboxId> {
    let (mut after, mut seen): (Option<Position>, Vec<SandboxId>) = (None, Vec::new());
    loop {
        let page = store.sandboxes(&team(1), after.as_ref(), limit).await.unwrap();
        assert!(page.items.len() <= limit as usize);
        assert!(page.next.is_none() || page.items.len() == limit as usize);
        seen.extend(page.items.into_iter().map(|s| s.id));
        match page.next {
            Some(next) => after = Some(next),
            None => return seen,
        }
    }
}

async fn filled(times: &[i64]) -> Db {
    let db = open().await;
    let tx = db.store.begin(Step::Uses).await.unwrap();
    for (n, at) in times.iter().enumerate() {
        tx.insert_sandbox(&sandbox(n as u128, *at)).await.unwrap();
    }
    tx.commit().await.unwrap();
    db
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_row_comes_once_and_in_order(
        times in proptest::collection::vec(1_700_000_000_000_000i64..1_700_000_000_000_004, 0..30),
        limit in 1u32..8,
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let db = filled(&times).await;
            let seen = walk(&db.store, limit).await;
            let mut wanted: Vec<_> = times.iter().enumerate().map(|(n, at)| (*at, id(n as u128))).collect();
            wanted.sort();
            wanted.reverse();
            assert_eq!(seen, wanted.into_iter().map(|(_, id)| id).collect::<Vec<_>>());
        });
    }
}

#[tokio::test]
async fn rows_made_or_ended_between_pages_move_no_other_row() {
    let db = filled(&[5; 9]).await;
    let first = db.store.sandboxes(&team(1), None, 3).await.unwrap();
    insert(&db.store, &sandbox(100, 6)).await;
    let tx = db.store.begin(Step::Uses).await.unwrap();
    // The very row at which the next page begins.
    tx.mark_over(&first.items[2].id, Incarnation::FIRST, SandboxStatus::Stopped, "x", 7).await.unwrap();
    tx.commit().await.unwrap();
    let rest = db.store.sandboxes(&team(1), first.next.as_ref(), 50).await.unwrap();
    let seen: BTreeSet<_> = first.items.iter().chain(&rest.items).map(|s| s.id.clone()).collect();
    assert_eq!(seen, (0..9).map(id).collect());
    assert!(rest.next.is_none());
}

#[tokio::test]
async fn another_teams_rows_are_not_listed() {
    let db = filled(&[1, 2]).await;
    let mut foreign = sandbox(50, 3);
    foreign.team = team(2);
    insert(&db.store, &foreign).await;
    assert_eq!(walk(&db.store, 10).await.len(), 2);
    assert_eq!(db.store.sandboxes(&team(2), None, 10).await.unwrap().items[0].id, foreign.id);
}
