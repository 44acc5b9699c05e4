//! A guest that is paused and goes on, twice, on what the pause before left.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use atoll_keeper::client::SnapshotFiles;
use atoll_keeper::memory::base::{is_sealed, seal};
use atoll_keeper::memory::flatten::flatten;
use atoll_keeper::protocol::{Event, Snapshot, Then};
use atoll_keeper::spec::{Memory, Start, Verified};

use crate::guest::{DISK_MB, Guest, MEMORY_MB, TOKEN, prepare};
use crate::scene::Scene;

const MEMORY: u64 = (MEMORY_MB as u64) << 20;

/// What a restore is told of a snapshot in a directory.
pub(crate) fn restore_of(dir: &Path, snapshot: &Snapshot) -> Start {
    let state = Verified { path: dir.join("state"), digest: snapshot.state_digest };
    let diff = Verified { path: dir.join("diff"), digest: snapshot.diff_digest };
    Start::Restore { state, diff: Some(diff) }
}

/// Takes a snapshot while somebody asks for the state all the time; answers it and the slowest of those answers.
async fn take(guest: &Guest, dir: &Path, then: Then) -> (Snapshot, Duration) {
    fs::create_dir(dir).unwrap();
    let files = SnapshotFiles::create(dir).unwrap();
    let mut slowest = Duration::ZERO;
    let taking = guest.client.snapshot(files, then);
    tokio::pin!(taking);
    let snapshot = loop {
        let asked = Instant::now();
        tokio::select! {
            taken = &mut taking => break taken.unwrap(),
            state = guest.client.state() => {
                state.unwrap();
                slowest = slowest.max(asked.elapsed());
            }
        }
    };
    println!("{snapshot:?}; slowest state meanwhile {slowest:?}");
    assert_eq!(fs::metadata(dir.join("diff")).unwrap().len(), snapshot.diff_bytes);
    assert_eq!(fs::metadata(dir.join("state")).unwrap().len(), snapshot.state_bytes);
    (snapshot, slowest)
}

fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("--sparse=always").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn a_guest_goes_on_over_two_generations() {
    let scene = Scene::new(MEMORY_MB);
    let cold = prepare(&scene);
    let base = scene.path("memory.raw");
    let own = || Memory::File { path: scene.path("memory.raw") };
    let (keeper, connected) = Guest::start(&scene, own(), cold, None, 1).await;
    let guest = Guest::reach(keeper, connected, None).await;
    guest.sh("mkdir -p /m; mount -t tmpfs none /m; head -c 8000000 /dev/urandom > /m/a; cp /m/a /m/z").await;
    guest
        .sh("(i=0; while sleep 0.05; do i=$((i+1)); echo $i > /m/new; mv /m/new /m/count; done) >/dev/null 2>&1 &")
        .await;
    let sum = guest.sh("sha256sum < /m/a").await;

    // A running one goes on after its snapshot, and is not the snapshot any more.
    let (running, _) = take(&guest, &scene.path("g0"), Then::Resume).await;
    assert_eq!(guest.sh("sha256sum < /m/a").await, sum);
    assert_eq!(guest.client.state().await.unwrap().run_state, "running");
    assert!(running.data_pages * 4096 > 8_000_000 && running.data_pages * 4096 < MEMORY, "{running:?}");

    let (first, _) = take(&guest, &scene.path("g1"), Then::Stay).await;
    let state = guest.client.state().await.unwrap();
    assert_eq!((state.run_state.as_str(), state.busy, state.snapshot), ("paused", None, Some(Box::new(first.clone()))));
    copy(&scene.path("cow.raw"), &scene.path("cow.g1"));
    let count: u64 = {
        guest.client.resume().await.unwrap();
        let count = guest.sh("cat /m/count").await;
        guest.end(&scene);
        count.parse().unwrap()
    };
    assert_eq!(File::open(&base).unwrap().metadata().unwrap().len(), MEMORY);
    assert_eq!(std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&base).unwrap()), 0, "the base was written to");

    copy(&scene.path("cow.g1"), &scene.path("cow.raw"));
    let started = Instant::now();
    let (keeper, connected) = Guest::start(&scene, own(), restore_of(&scene.path("g1"), &first), None, 2).await;
    connected.client.await_restore().await.unwrap();
    println!("ready after {:?}", started.elapsed());
    assert_eq!(connected.client.state().await.unwrap().run_state, "paused");
    connected.client.resume().await.unwrap();
    let mut guest = Guest::reach(keeper, connected, Some(TOKEN)).await;
    println!("answered after {:?}", started.elapsed());
    assert_eq!(guest.sh("sha256sum < /m/a").await, sum);
    let now: u64 = guest.sh("cat /m/count").await.parse().unwrap();
    assert!(now + 40 > count, "{now} after {count}");

    // Second generation: pages that became zero must not come back from the base.
    let sum = guest
        .sh("head -c 8000000 /dev/zero > /m/z; head -c 3000000 /dev/urandom >> /m/z; cat /m/a /m/z | sha256sum")
        .await;
    while guest.connected.events.try_recv().is_ok() {}
    let (second, _) = take(&guest, &scene.path("g2"), Then::Exit).await;
    let mut told = Vec::new();
    while let Some(event) = guest.connected.events.recv().await {
        let over = matches!(event, Event::VmmExited { .. });
        told.push(event);
        if over {
            break;
        }
    }
    assert!(told.contains(&Event::Captured) && told.contains(&Event::Stopped { reason: "asked".into() }), "{told:?}");
    guest.end(&scene);

    // Flattened, shared, without a diff.
    let open = |name: &str| File::open(scene.path(name)).unwrap();
    let make = |name: &str| File::options().read(true).write(true).create_new(true).open(scene.path(name)).unwrap();
    let flat2 = make("flat2");
    flatten(&open("memory.raw"), Some((&open("g2/diff"), second.diff_digest)), MEMORY, &flat2).unwrap();
    let shared = seal(&flat2).unwrap();
    let state = Verified { path: scene.path("g2/state"), digest: second.state_digest };
    let start = Start::Restore { state, diff: None };
    let (keeper, connected) = Guest::start(&scene, Memory::Sealed, start, Some(shared), 3).await;
    connected.client.await_restore().await.unwrap();
    let bytes = (u64::from(DISK_MB) + 64) << 20;
    connected.client.resize_disk(bytes).await.unwrap();
    assert!(connected.client.resize_disk(u64::from(DISK_MB) << 22).await.is_err(), "beyond what the spec allows");
    connected.client.resume().await.unwrap();
    let guest = Guest::reach(keeper, connected, Some(TOKEN)).await;
    assert_eq!(guest.sh("cat /m/a /m/z | sha256sum").await, sum);
    let sectors: u64 = guest.sh("cat /sys/block/vdb/size").await.parse().unwrap();
    assert_eq!(sectors * 512, bytes);
    assert!(is_sealed(&guest.client.memory_base().await.unwrap().into()));

    // The diff of a clone holds what the clone changed alone.
    let (third, _) = take(&guest, &scene.path("g3"), Then::Resume).await;
    assert!(third.data_pages < second.data_pages / 2, "{} of {} pages", third.data_pages, second.data_pages);
    assert_eq!(guest.sh("cat /m/a /m/z | sha256sum").await, sum);
    guest.end(&scene);
}
