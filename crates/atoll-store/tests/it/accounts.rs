//! Accounts: found by what identifies them, never twice.

use atoll_domain::record::{ApiKey, Membership, User};
use atoll_domain::{HostId, KeyId, Role, UserId};
use atoll_store::{NewKey, Step};

use crate::support::{open, team};

fn key(n: u8, hash: &str) -> NewKey {
    let key = ApiKey { id: KeyId::from_random([n; 16]), team: team(1), name: "k".into(), prefix: "atoll_0123".into() };
    NewKey { key, hash: hash.into() }
}

#[tokio::test]
async fn the_first_team_and_host_are_there_only_when_committed() {
    let db = open().await;
    assert_eq!(db.store.first_team_and_host().await.unwrap(), None);
    let host = HostId::from_random([9; 16]);
    let tx = db.store.begin(Step::Uses).await.unwrap();
    tx.insert_team(&team(1), "Team", "team", 1).await.unwrap();
    tx.insert_own_host(&host, 1).await.unwrap();
    drop(tx);
    assert_eq!(db.store.first_team_and_host().await.unwrap(), None);
    let tx = db.store.begin(Step::Uses).await.unwrap();
    tx.insert_team(&team(1), "Team", "team", 1).await.unwrap();
    tx.insert_own_host(&host, 1).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(db.store.first_team_and_host().await.unwrap(), Some((team(1), host)));
}

#[tokio::test]
async fn a_key_is_found_by_its_hash_alone_and_a_hash_is_kept_once() {
    let db = open().await;
    let tx = db.store.begin(Step::Uses).await.unwrap();
    tx.insert_team(&team(1), "Team", "team", 1).await.unwrap();
    tx.insert_api_key(&key(1, "aa"), 1).await.unwrap();
    assert!(tx.insert_api_key(&key(2, "aa"), 1).await.is_err());
    drop(tx);
    let tx = db.store.begin(Step::Uses).await.unwrap();
    tx.insert_team(&team(1), "Team", "team", 1).await.unwrap();
    tx.insert_api_key(&key(1, "aa"), 1).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(db.store.api_key_by_hash("aa").await.unwrap(), Some(key(1, "aa").key));
    for other in ["", "a", "AA", "aa ", "%"] {
        assert_eq!(db.store.api_key_by_hash(other).await.unwrap(), None, "{other}");
    }
}

#[tokio::test]
async fn references_are_checked() {
    let db = open().await;
    let tx = db.store.begin(Step::Uses).await.unwrap();
    assert!(tx.insert_api_key(&key(1, "aa"), 1).await.is_err(), "a key without its team");
    drop(tx);
    let tx = db.store.begin(Step::Uses).await.unwrap();
    let user = User { id: UserId::from_random([1; 16]), email: "a@b".into(), name: "A".into(), is_admin: true };
    tx.insert_user(&user, "hash", 1).await.unwrap();
    let member = Membership { team: team(1), user: user.id, role: Role::Owner };
    assert!(tx.insert_membership(&member, 1).await.is_err(), "a member of no team");
}
