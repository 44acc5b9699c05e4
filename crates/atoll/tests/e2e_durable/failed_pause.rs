//! A pause that the host's disk has no space for leaves the sandbox as it was: running, its user code too, and sampled.
//!
//! How it works: the data directory lies on a small disk. It is full before the pause is asked for; or it gets full while memory is
//! being written, which whoever fills it sees by the file that grows. A pause that was quicker is undone and tried again.
//!
//! Deliberately absent: a guest that meets the full disk itself ([`super::disk`]).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use atoll_api::{CreateSandboxRequest, ErrorCode, SandboxStatus};
use atoll_client::{Client, ClientError};

use super::counter::Counter;
use super::disk::SmallDisk;
use super::told::{MEMORY, kinds, reason, sampled};
use super::world::{LIMIT, World, request, shell, until};

/// More than root's own blocks of the small disk, so that these are no way out.
const CHANGE: &str = "dd if=/dev/urandom of=/dev/shm/large bs=1M count=90 conv=notrunc 2>/dev/null";

/// The files of a memory that is being written.
fn diffs(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let generations = fs::read_dir(dir.join("generations")).into_iter().flatten().flatten();
    generations.map(|entry| entry.path().join("diff")).filter(|path| path.exists())
}

/// Fills a disk as soon as memory of this sandbox lies on it; answers whether it did when told that it is over.
fn fill_when_written(disk: &Arc<SmallDisk>, dir: PathBuf) -> (Arc<AtomicBool>, JoinHandle<bool>) {
    let (disk, over) = (Arc::clone(disk), Arc::new(AtomicBool::new(false)));
    let until = Arc::clone(&over);
    let filling = std::thread::spawn(move || {
        while !until.load(Ordering::SeqCst) {
            if diffs(&dir).any(|path| fs::metadata(path).is_ok_and(|meta| meta.len() > 0)) {
                disk.fill_up_to(0);
                return true;
            }
        }
        false
    });
    (over, filling)
}

/// It runs, its program goes on, it is sampled, its owner reads why.
async fn is_as_it_was(client: &Client, counter: &Counter) {
    let failed = jiff::Timestamp::now().as_millisecond();
    let row = client.sandbox(&counter.id).await.unwrap();
    assert!(row.status == SandboxStatus::Running && row.paused.is_none(), "{row:?}");
    assert_eq!(kinds(client, &counter.id).await.last().map(String::as_str), Some("pause_failed"));
    println!("{:?}", reason(client, &counter.id, "pause_failed").await);
    counter.goes_on(client).await;
    let later = until("a sample", LIMIT, async || match sampled(client, &counter.id).await.last() {
        Some(newest) if *newest > failed => Ok(()),
        newest => Err(format!("{newest:?}, and it failed at {failed}")),
    });
    later.await.unwrap();
}

fn is_no_capacity(error: &ClientError) {
    assert_eq!(error.code(), Some(ErrorCode::NoCapacity), "{error:?}");
}

/// Pauses it while the disk fills; a pause that was quicker is undone.
async fn meet_the_end(client: &Client, id: &str, dir: &Path, disk: &Arc<SmallDisk>) {
    for _ in 0..5 {
        let said = shell(client, id, CHANGE).await.unwrap();
        assert_eq!(said.exit_code, 0, "{said:?}");
        let (over, filling) = fill_when_written(disk, dir.to_owned());
        let answer = client.pause(id, &MEMORY).await;
        over.store(true, Ordering::SeqCst);
        let filled = filling.join().unwrap();
        if let Err(error) = answer {
            assert!(filled, "{error:?}");
            return is_no_capacity(&error);
        }
        if filled {
            disk.make_room();
        }
        client.resume(id, &MEMORY).await.unwrap();
    }
    panic!("each pause was quicker");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_without_space_leaves_it_running_thawed_and_sampled() {
    let mut world = World::below("disk/data");
    let disk = Arc::new(SmallDisk::over(world.file("disk")));
    world.up().await;
    let client = world.client();
    let request = CreateSandboxRequest { memory_mb: Some(256), ..request() };
    let made = client.create(&request).await.unwrap();
    let (id, dir) = (made.id, PathBuf::from(made.host.unwrap().directory));
    let counter = Counter::begin(&client, &id).await;

    disk.fill_up_to(100 << 20);
    is_no_capacity(&client.pause(&id, &MEMORY).await.unwrap_err());
    is_as_it_was(&client, &counter).await;
    assert_eq!(diffs(&dir).count(), 0, "something was written");
    disk.make_room();

    meet_the_end(&client, &id, &dir, &disk).await;
    assert_eq!(diffs(&dir).count(), 0, "what was written is left");
    disk.make_room();
    is_as_it_was(&client, &counter).await;
    world.agrees().await;

    assert_eq!(client.pause(&id, &MEMORY).await.unwrap().status, SandboxStatus::Paused);
    client.resume(&id, &MEMORY).await.unwrap();
    counter.goes_on(&client).await;
    world.agrees().await;
    client.destroy(&id).await.unwrap();
    world.end();
    drop(disk);
}
