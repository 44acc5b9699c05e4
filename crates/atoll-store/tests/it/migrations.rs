//! Opening: an empty file, one that is there already, one that is none of ours.

use atoll_store::Store;

use crate::support::{insert, open, sandbox};

#[tokio::test]
async fn a_database_opens_again_with_what_was_committed_even_if_nobody_closed_it() {
    let db = open().await;
    let row = sandbox(1, 10);
    insert(&db.store, &row).await;
    // As after a crash: the first one still has its connections.
    let again = Store::open_sqlite(&db.dir.path().join("atoll.db")).await.unwrap();
    assert_eq!(again.sandbox(&row.id).await.unwrap(), Some(row.clone()));
    again.close().await;
    db.store.close().await;
    let third = Store::open_sqlite(&db.dir.path().join("atoll.db")).await.unwrap();
    assert_eq!(third.sandbox(&row.id).await.unwrap(), Some(row));
}

#[tokio::test]
async fn two_that_open_an_empty_database_at_once_both_find_it_migrated() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("atoll.db");
    let first = Store::open_sqlite(&path).await.unwrap();
    let (a, b) = tokio::join!(Store::open_sqlite(&path), Store::open_sqlite(&path));
    let row = sandbox(2, 10);
    insert(&a.unwrap(), &row).await;
    assert_eq!(b.unwrap().sandbox(&row.id).await.unwrap(), Some(row.clone()));
    assert_eq!(first.sandbox(&row.id).await.unwrap(), Some(row));
}

#[tokio::test]
async fn a_file_that_is_no_database_is_an_error_and_stays_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("atoll.db");
    let text = "not a database, but somebody's notes\n".repeat(100);
    std::fs::write(&path, &text).unwrap();
    assert!(Store::open_sqlite(&path).await.is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[tokio::test]
async fn a_path_with_characters_of_an_url_is_a_path() {
    let dir = tempfile::tempdir().unwrap();
    let odd = dir.path().join("a?mode=ro&b%20c#d");
    std::fs::create_dir(&odd).unwrap();
    let store = Store::open_sqlite(&odd.join("atoll.db")).await.unwrap();
    insert(&store, &sandbox(1, 1)).await;
    assert!(odd.join("atoll.db").exists());
}
