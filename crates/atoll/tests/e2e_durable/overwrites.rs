//! A template that is made again and again under one name takes the space of one.
//!
//! How it works: blocks are counted as the file system has them, below the directory of objects.
//!
//! Deliberately absent: a template that others rest on while it is overwritten (`e2e_life`).

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use atoll_api::{CreateSandboxRequest, CreateSnapshotRequest, ErrorCode};
use atoll_client::Client;

use super::world::{LIMIT, World, request, shell, until};

const OVERWRITES: u32 = 20;
/// Other bytes in the same pages and blocks.
const CHANGE: &str = "for file in /dev/shm/a /root/a; do \
    dd if=/dev/urandom of=$file bs=64k count=64 conv=notrunc 2>/dev/null; done; sync; cat /dev/shm/a /root/a | sha256sum";

/// Bytes that everything below a directory takes.
fn allocated(path: &Path) -> u64 {
    // What is being removed goes while it is looked at.
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    let inner = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| allocated(&entry.path()));
    meta.blocks() * 512 + inner.sum::<u64>()
}

/// Waits until one object is left, and answers what that takes.
async fn the_only_one(world: &World) -> u64 {
    let objects = world.data().join("objects");
    let one = until("one object to be left", LIMIT, async || {
        let entries = fs::read_dir(&objects).map_err(|error| error.to_string())?.flatten();
        match entries.filter(|entry| entry.path().is_dir()).count() {
            1 => Ok(()),
            count => Err(format!("{count} are there")),
        }
    });
    one.await.unwrap_or_else(|why| panic!("{why}\n{}", world.last_log()));
    allocated(&objects)
}

async fn make(client: &Client, id: &str) -> f64 {
    let request = CreateSnapshotRequest { sandbox_id: id.to_owned(), name: Some("again".into()) };
    // On a machine under load its agent may not answer in time, and then the sandbox is as it was.
    let made = || async {
        match client.create_snapshot(&request, true).await {
            Err(error) if error.code() == Some(ErrorCode::AgentBusy) => None,
            made => made.unwrap().stood_still_ms,
        }
    };
    atoll_testkit::eventually("the template", made).await
}

async fn changed(client: &Client, id: &str) -> String {
    let said = shell(client, id, CHANGE).await.unwrap();
    assert_eq!(said.exit_code, 0, "{said:?}");
    said.stdout
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_twenty_overwrites_a_template_takes_what_one_takes() {
    let world = World::running().await;
    let client = world.client();
    let id = client.create(&request()).await.unwrap().id;
    // What the guest touches for this is touched before it is counted.
    for _ in 0..3 {
        changed(&client, &id).await;
    }
    make(&client, &id).await;
    let first = the_only_one(&world).await;
    let (mut sum, mut stood_still) = (String::new(), Vec::new());
    for _ in 0..OVERWRITES {
        sum = changed(&client, &id).await;
        stood_still.push(make(&client, &id).await);
    }
    let last = the_only_one(&world).await;
    println!(
        "the first takes {first} bytes, after {OVERWRITES} overwrites it is {last}; stood still (ms): {stood_still:?}"
    );
    assert!(last < first + first * 2 / 5, "{first} bytes became {last}");
    let listed = client.snapshots(Some("snapshot")).await.unwrap();
    assert_eq!(listed.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["again"]);
    world.agrees().await;
    // It is the newest that stands.
    let copy = CreateSandboxRequest { template: Some("again".into()), ..CreateSandboxRequest::default() };
    let copy = client.create(&copy).await.unwrap().id;
    let said = shell(&client, &copy, "cat /dev/shm/a /root/a | sha256sum").await.unwrap();
    assert_eq!(said.stdout, sum);
    client.delete_snapshot("again").await.unwrap();
    client.destroy(&copy).await.unwrap();
    client.destroy(&id).await.unwrap();
    world.agrees().await;
    let left = allocated(&world.data().join("objects"));
    assert!(left < 1 << 20, "{left} bytes are left");
}
