//! What a sandbox used is known over a killed Atoll and over a pause, and so is how large it is.
//!
//! How it works: a program keeps one of a guest's two processors busy, so that the share of the whole shows how many are counted.
//!
//! Deliberately absent: the tiers and their sums (tests of `atoll-domain` and `atoll-host`).

use atoll_api::{CreateSandboxRequest, MetricPoint};
use atoll_client::Client;

use super::told::MEMORY;
use super::world::{LIMIT, World, request, shell, until};

/// One of two is half; the VMM itself takes its part beside it.
const ONE_OF_TWO: f64 = 80.0;

async fn points(client: &Client, id: &str) -> Result<Vec<MetricPoint>, String> {
    client.metrics(id, "10m").await.map(|metrics| metrics.points).map_err(|error| error.to_string())
}

fn times(points: &[MetricPoint]) -> Vec<i64> {
    points.iter().map(|point| point.timestamp_ms).collect()
}

/// All samples, when there are some more than those of `before`, which they begin with.
async fn sampled_on(client: &Client, id: &str, before: &[MetricPoint]) -> Vec<MetricPoint> {
    const MORE: usize = 6;
    let more = until("samples", LIMIT, async || match points(client, id).await? {
        points if points.len() >= before.len() + MORE => Ok(points),
        points => Err(format!("{} samples, after {}", points.len(), before.len())),
    });
    let points = more.await.unwrap();
    assert!(times(&points).starts_with(&times(before)), "{:?} do not begin with {:?}", times(&points), times(before));
    assert!(times(&points).is_sorted_by(|a, b| a < b), "{:?}", times(&points));
    let new = &points[before.len()..];
    println!("{:?}", new.iter().map(|point| point.cpu_pct).collect::<Vec<_>>());
    let mut busy: Vec<_> = new.iter().map(|point| point.cpu_pct).collect();
    busy.sort_by(f64::total_cmp);
    // Other work of the guest's, or of its VMM's after a resume, fills single ones.
    assert!(busy[busy.len() / 2] <= ONE_OF_TWO, "more than one processor was busy");
    assert!(new.iter().any(|point| point.cpu_pct > 5.0), "none was busy");
    points
}

/// How large it is, as its guest and its row say.
async fn size(client: &Client, id: &str) -> (String, [u32; 3]) {
    let said =
        shell(client, id, "nproc; grep MemTotal /proc/meminfo; df -k / | tail -1 | awk '{print $2}'").await.unwrap();
    assert_eq!(said.exit_code, 0, "{said:?}");
    let row = client.sandbox(id).await.unwrap();
    (said.stdout, [row.vcpus, row.memory_mb, row.disk_mb])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_and_size_outlive_a_killed_atoll_and_a_pause() {
    let mut world = World::running().await;
    let client = world.client();
    let request = CreateSandboxRequest { vcpus: Some(2), memory_mb: Some(192), ..request() };
    let id = client.create(&request).await.unwrap().id;
    let made = size(&client, &id).await;
    assert!(made.0.starts_with("2\n") && made.1[..2] == [2, 192], "{made:?}");
    shell(&client, &id, "(while :; do :; done) >/dev/null 2>&1 &").await.unwrap();
    // Those from before it was busy may be few.
    let busy = until("a sample of a busy guest", LIMIT, async || match points(&client, &id).await? {
        points if points.last().is_some_and(|point| point.cpu_pct > 5.0) => Ok(points),
        points => Err(format!("{points:?}")),
    });
    let mut before = sampled_on(&client, &id, &busy.await.unwrap()).await;

    for _ in 0..2 {
        world.kill();
        world.up().await;
        let client = world.client();
        before = sampled_on(&client, &id, &before).await;
        assert_eq!(size(&client, &id).await, made);
    }

    let client = world.client();
    client.pause(&id, &MEMORY).await.unwrap();
    // A host that is slow to say it is asked again.
    let paused = until("its samples", LIMIT, async || match points(&client, &id).await? {
        paused if times(&paused).starts_with(&times(&before)) => Ok(paused),
        paused => Err(format!("{:?}, {:?}", times(&paused), times(&before))),
    });
    let paused = paused.await.unwrap();
    client.resume(&id, &MEMORY).await.unwrap();
    let after = sampled_on(&client, &id, &paused).await;
    assert_eq!(size(&client, &id).await, made);
    // A sandbox that was paused when Atoll was killed goes on with them, too.
    client.pause(&id, &MEMORY).await.unwrap();
    world.kill();
    world.up().await;
    let client = world.client();
    // Whether it may be asked at once is tried in `paused`.
    let resumed = async || client.resume(&id, &MEMORY).await.map_err(|error| error.to_string());
    until("it to be resumed", LIMIT, resumed).await.unwrap();
    sampled_on(&client, &id, &after).await;
    assert_eq!(size(&client, &id).await, made);
    world.agrees().await;
}
