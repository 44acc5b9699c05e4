//! A sandbox's life in the database: limits, pause and resume, metric points, templates, what happened.

use atoll_domain::happening::{Happening, HappeningKind};
use atoll_domain::host::{Call, SandboxFacts};
use atoll_domain::metrics::{Joined, Point, Tier};
use atoll_domain::objects::ObjectId;
use atoll_domain::record::{Paused, Sandbox, Template, TemplateKind};
use atoll_domain::ttl::{Lifetime, OnExpiry};
use atoll_domain::{HostId, Incarnation, OperationId, SandboxStatus, Shape};
use atoll_store::{OperationKind, Step, Store, WriteTransaction};

use crate::support::{self, open, team};

async fn begin(store: &Store) -> WriteTransaction {
    store.begin(Step::Uses).await.unwrap()
}

const SHAPE: Shape = Shape { vcpus: 2, memory_mb: 512, disk_mb: 5120 };

fn sandbox() -> Sandbox {
    let lifetime = Lifetime {
        timeout_sec: 60,
        end_at: Some(9),
        on_expiry: OnExpiry::Destroy,
        auto_resume: true,
        max_lifetime_sec: 3600,
    };
    Sandbox { lifetime, ..support::sandbox(7, 1) }
}

fn facts(of: &Sandbox, incarnation: u64) -> SandboxFacts {
    SandboxFacts { incarnation: Incarnation(incarnation), ..support::facts(of) }
}

#[tokio::test]
async fn limits_are_kept_and_changed_until_it_is_over() {
    let db = open().await;
    let store = &db.store;
    let row = sandbox();
    let tx = begin(store).await;
    tx.insert_sandbox(&row).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(store.sandbox(&row.id).await.unwrap(), Some(row.clone()));
    let lifetime = Lifetime { timeout_sec: 5, ..Lifetime::default() };
    let tx = begin(store).await;
    assert_eq!(tx.set_lifetime(&row.id, &lifetime, 2).await.unwrap(), Some(1));
    assert!(tx.mark_over(&row.id, Incarnation::FIRST, SandboxStatus::Stopped, "x", 3).await.unwrap());
    assert_eq!(tx.set_lifetime(&row.id, &row.lifetime, 4).await.unwrap(), None);
    assert!(!tx.put_lifetime_back(&row.id, 1, &row.lifetime, 4).await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(store.sandbox(&row.id).await.unwrap().unwrap().lifetime, lifetime);
}

#[tokio::test]
async fn a_refused_change_of_limits_is_put_back_unless_a_newer_one_was_made() {
    let db = open().await;
    let store = &db.store;
    let row = sandbox();
    let limit = |timeout_sec| Lifetime { timeout_sec, ..Lifetime::default() };
    let tx = begin(store).await;
    tx.insert_sandbox(&row).await.unwrap();
    assert_eq!(tx.set_lifetime(&row.id, &limit(1), 2).await.unwrap(), Some(1));
    assert_eq!(tx.set_lifetime(&row.id, &limit(2), 3).await.unwrap(), Some(2));
    assert!(!tx.put_lifetime_back(&row.id, 1, &row.lifetime, 4).await.unwrap(), "the second would be lost");
    assert!(tx.put_lifetime_back(&row.id, 2, &limit(1), 5).await.unwrap());
    assert_eq!(tx.set_lifetime(&row.id, &limit(3), 6).await.unwrap(), Some(3), "no number is given twice");
    tx.commit().await.unwrap();
    let kept = store.sandbox(&row.id).await.unwrap().unwrap();
    assert_eq!((kept.lifetime, kept.lifetime_revision), (limit(3), 3));
}

#[tokio::test]
async fn a_pause_counts_once_and_only_in_its_life() {
    let db = open().await;
    let store = &db.store;
    let row = sandbox();
    let paused = Paused { at: 5, generation: Some("g1".into()), quiesced: true, bytes: 4096, memory_lost: false };
    let tx = begin(store).await;
    tx.insert_sandbox(&row).await.unwrap();
    assert!(!tx.mark_paused(&row.id, Incarnation::FIRST, &paused, 2).await.unwrap(), "it does not run yet");
    assert!(tx.mark_running(&facts(&row, 1), 3).await.unwrap());
    assert!(!tx.mark_paused(&row.id, Incarnation(0), &paused, 5).await.unwrap(), "an older life");
    assert!(tx.mark_paused(&row.id, Incarnation::FIRST, &paused, 5).await.unwrap());
    assert!(!tx.mark_paused(&row.id, Incarnation::FIRST, &paused, 6).await.unwrap(), "paused before");
    tx.commit().await.unwrap();
    let kept = store.sandbox(&row.id).await.unwrap().unwrap();
    assert_eq!((kept.status, kept.paused.as_ref(), kept.host_ip), (SandboxStatus::Paused, Some(&paused), None));
    let tx = begin(store).await;
    assert!(!tx.mark_resumed(&facts(&row, 1), 7).await.unwrap(), "the life that was paused");
    assert!(tx.mark_resumed(&facts(&row, 2), 7).await.unwrap());
    assert!(!tx.mark_paused(&row.id, Incarnation::FIRST, &paused, 8).await.unwrap(), "a late answer of the first life");
    tx.commit().await.unwrap();
    let kept = store.sandbox(&row.id).await.unwrap().unwrap();
    assert_eq!((kept.status, kept.paused, kept.incarnation), (SandboxStatus::Running, None, Incarnation(2)));
    assert_eq!(kept.shape.vcpus, 2, "the size survives a resume");
}

#[tokio::test]
async fn a_pause_of_a_later_life_that_was_missed_is_the_one_that_counts() {
    let db = open().await;
    let store = &db.store;
    let row = sandbox();
    let paused = |at| Paused { at, generation: None, quiesced: true, bytes: 1, memory_lost: false };
    let tx = begin(store).await;
    tx.insert_sandbox(&row).await.unwrap();
    assert!(tx.mark_running(&facts(&row, 1), 2).await.unwrap());
    assert!(tx.mark_paused(&row.id, Incarnation::FIRST, &paused(3), 3).await.unwrap());
    assert!(tx.mark_paused(&row.id, Incarnation(2), &paused(4), 4).await.unwrap());
    assert!(!tx.mark_paused(&row.id, Incarnation(2), &paused(5), 5).await.unwrap());
    tx.commit().await.unwrap();
    let kept = store.sandbox(&row.id).await.unwrap().unwrap();
    assert_eq!((kept.incarnation, kept.paused), (Incarnation(2), Some(paused(4))));
}

#[tokio::test]
async fn sealed_secrets_are_kept_until_it_is_over() {
    let db = open().await;
    let store = &db.store;
    let row = sandbox();
    let tx = begin(store).await;
    tx.insert_sandbox(&row).await.unwrap();
    tx.keep_secrets(&row.id, "v1.sealed").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(store.secrets(&row.id).await.unwrap().as_deref(), Some("v1.sealed"));
    let tx = begin(store).await;
    assert!(tx.mark_over(&row.id, Incarnation::FIRST, SandboxStatus::Stopped, "x", 3).await.unwrap());
    tx.keep_secrets(&row.id, "v1.again").await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(store.secrets(&row.id).await.unwrap(), None);
    assert_eq!(store.secrets(&support::id(99)).await.unwrap(), None);
}

#[tokio::test]
async fn a_call_names_what_it_makes_until_it_has_its_outcome() {
    let db = open().await;
    let store = &db.store;
    let call = Call { operation: OperationId::from_random([3; 16]), incarnation: Incarnation(2) };
    let tx = begin(store).await;
    tx.begin_operation_on(&call, &sandbox().id, OperationKind::Snapshot, Some("tpl-1"), 1).await.unwrap();
    tx.commit().await.unwrap();
    let open = store.open_operations().await.unwrap();
    assert_eq!((open[0].kind, open[0].subject.as_deref()), (OperationKind::Snapshot, Some("tpl-1")));
    let tx = begin(store).await;
    tx.finish_operation(&call.operation, 2).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(store.open_operations().await.unwrap(), []);
}

/// As many points as the rings can hold.
fn full_rings() -> Vec<Joined> {
    let of = |tier: Tier| {
        (0..tier.capacity() as u64).map(move |n| {
            let timestamp_ms = 1_800_000_000_000 + i64::try_from(n * tier.interval_ms()).unwrap();
            let guest_mem_bytes = n.is_multiple_of(2).then_some(n);
            let (mem_bytes, disk_bytes) = (n, u64::MAX);
            let point =
                Point { timestamp_ms, cpu_pct: 12.5, mem_bytes, disk_bytes, guest_mem_bytes, guest_disk_bytes: None };
            Joined { tier, point }
        })
    };
    Tier::ALL.into_iter().flat_map(of).collect()
}

#[tokio::test]
async fn full_rings_are_flushed_whole_and_twice_is_once() {
    let db = open().await;
    let store = &db.store;
    let (id, points) = (sandbox().id, full_rings());
    assert_eq!(points.len(), 1200 + 240 + 288);
    let tx = begin(store).await;
    assert_eq!(tx.insert_metric_points(&id, &points).await.unwrap(), 1728, "no key stands for two points");
    assert_eq!(tx.insert_metric_points(&id, &points).await.unwrap(), 0);
    assert_eq!(tx.insert_metric_points(&id, &[]).await.unwrap(), 0);
    tx.commit().await.unwrap();
    for tier in Tier::ALL {
        let expected: Vec<Point> = points.iter().filter(|j| j.tier == tier).map(|j| j.point).collect();
        let read = store.metric_points(&id, tier).await.unwrap();
        assert_eq!(read.len(), expected.len());
        for (read, expected) in read.iter().zip(&expected) {
            // Bytes beyond the database's range are the greatest that it has.
            assert_eq!(*read, Point { disk_bytes: u64::try_from(i64::MAX).unwrap(), ..*expected });
        }
    }
    let tx = begin(store).await;
    assert_eq!(tx.drop_fine_metric_points(&id).await.unwrap(), 1440);
    tx.commit().await.unwrap();
    assert_eq!(store.metric_points(&id, Tier::Day).await.unwrap().len(), 288);
    assert!(store.metric_points(&id, Tier::TenMinutes).await.unwrap().is_empty());
}

#[tokio::test]
async fn points_that_no_ring_would_hold_any_more_are_forgotten() {
    let db = open().await;
    let store = &db.store;
    let (id, other) = (sandbox().id, support::sandbox(8, 1).id);
    let tx = begin(store).await;
    tx.insert_metric_points(&id, &full_rings()).await.unwrap();
    tx.insert_metric_points(&other, &full_rings()).await.unwrap();
    // The same rings half an hour later: the raw ones of then are over, of the others some.
    let later: Vec<Joined> = full_rings()
        .into_iter()
        .map(|joined| {
            let timestamp_ms = joined.point.timestamp_ms + 30 * 60 * 1000;
            Joined { point: Point { timestamp_ms, ..joined.point }, ..joined }
        })
        .collect();
    tx.insert_metric_points(&id, &later).await.unwrap();
    assert_eq!(tx.drop_fine_metric_points(&id).await.unwrap(), 1440, "as many as the rings hold");
    assert_eq!(tx.drop_fine_metric_points(&other).await.unwrap(), 1440, "another's are its own");
    tx.commit().await.unwrap();
    assert_eq!(store.metric_points(&id, Tier::Day).await.unwrap().len(), 288);
}

fn template(id: &str, owner: u8, name: &str) -> Template {
    Template {
        id: id.into(),
        team: team(owner),
        host: HostId::from_random([1; 16]),
        name: name.into(),
        kind: TemplateKind::Snapshot,
        shape: SHAPE,
        size_bytes: 10,
        objects: vec![ObjectId("o1".into()), ObjectId("o2".into())],
        created_at: 1,
        removed_at: None,
    }
}

#[tokio::test]
async fn a_name_is_one_template_of_a_team_and_an_overwrite_is_one_transaction() {
    let db = open().await;
    let store = &db.store;
    let tx = begin(store).await;
    tx.insert_template(&template("t1", 1, "web")).await.unwrap();
    tx.insert_template(&template("t2", 2, "web")).await.unwrap();
    tx.commit().await.unwrap();
    assert!(begin(store).await.insert_template(&template("t3", 1, "web")).await.is_err(), "the name is taken");
    let tx = begin(store).await;
    assert!(tx.remove_template("t1", 5).await.unwrap());
    assert!(!tx.remove_template("t1", 6).await.unwrap());
    tx.insert_template(&template("t3", 1, "web")).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(store.template(&team(1), "web").await.unwrap(), Some(template("t3", 1, "web")));
    assert_eq!(store.template(&team(2), "web").await.unwrap().unwrap().id, "t2", "another team's is untouched");
    let out = store.templates_on_the_way_out().await.unwrap();
    assert_eq!(out.iter().map(|t| (t.id.as_str(), t.removed_at)).collect::<Vec<_>>(), [("t1", Some(5))]);
    let tx = begin(store).await;
    assert!(tx.keep_template("t1").await.is_err(), "its name stands for another meanwhile");
    drop(tx);
    let tx = begin(store).await;
    assert!(!tx.forget_template("t3").await.unwrap(), "only what is on the way out is forgotten");
    assert!(tx.forget_template("t1").await.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(store.templates(&team(1), None).await.unwrap().len(), 1);
    assert_eq!(store.templates(&team(1), Some(TemplateKind::Base)).await.unwrap(), []);
}

#[tokio::test]
async fn what_happened_is_read_newest_first() {
    let db = open().await;
    let store = &db.store;
    let id = sandbox().id;
    let tx = begin(store).await;
    for kind in HappeningKind::ALL {
        let reason = (kind == HappeningKind::Expired).then(|| "idle".to_owned());
        tx.happened(&id, &Happening { at: 5, incarnation: Incarnation::FIRST, kind, reason }).await.unwrap();
    }
    tx.commit().await.unwrap();
    let read = store.happenings(&id, 100).await.unwrap();
    let kinds: Vec<_> = read.iter().rev().map(|happening| happening.kind).collect();
    assert_eq!(kinds, HappeningKind::ALL, "rows of one microsecond keep their order");
    assert_eq!(store.happenings(&id, 3).await.unwrap().len(), 3);
}

#[tokio::test]
async fn the_newest_of_a_kind_is_found_among_what_happened() {
    let db = open().await;
    let store = &db.store;
    let id = sandbox().id;
    let tx = begin(store).await;
    let kind = HappeningKind::PauseFailed;
    assert_eq!(tx.last_happening(&id, kind).await.unwrap(), None);
    let line =
        |at, kind, reason: &str| Happening { at, incarnation: Incarnation(2), kind, reason: Some(reason.into()) };
    for line in [line(5, kind, "a"), line(6, kind, "b"), line(6, kind, "c"), line(7, HappeningKind::Ended, "d")] {
        tx.happened(&id, &line).await.unwrap();
    }
    assert_eq!(tx.last_happening(&id, kind).await.unwrap(), Some(line(6, kind, "c")), "of one microsecond the later");
    assert_eq!(tx.last_happening(&support::sandbox(8, 1).id, kind).await.unwrap(), None);
}
