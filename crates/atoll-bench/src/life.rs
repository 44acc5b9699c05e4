//! What the life of a sandbox costs: starts from a golden, pauses, resumes, snapshots, and what is kept of them.
//!
//! How it works: over the data directory's socket, in turns with the bare sequence of [`crate::clone`] where there is one; both restore the
//! same golden's files. What has no counterpart stands alone; what is compared with another size of guest says so.
//!
//! Deliberately absent: thresholds.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use atoll_api::{CreateSandboxRequest, CreateSnapshotRequest, ExecRequest, ModeRequest, Paused, Sandbox};
use futures_util::future::{join_all, try_join_all};
use serde_json::Value;

use crate::bare::BareVm;
use crate::clone::{CloneVm, Image};
use crate::{Bench, Series, cpu};

const MEMORY: ModeRequest = ModeRequest { mode: None };
const LIMIT: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(20);
/// A little rest, so that what a create still holds is given back.
const REST: Duration = Duration::from_secs(5);
/// Creates that are counted for each rate.
const CREATES: usize = 200;
/// Memory of a guest that nothing is said about, of one that is paused idle, and of those that are many, in MiB.
const DEFAULT: i64 = 512;
const IDLE: i64 = 256;
const SMALL: i64 = 128;
const FEW: usize = 20;
const MANY: usize = 60;

/// Takes the samples of one part, or of all.
pub(crate) async fn measure(bench: &Bench, data: &Path, part: &str) -> Result<Vec<Series>> {
    let wanted = |name: &str| part == "all" || part == name;
    let mut out = Vec::new();
    let golden = golden(bench, data, DEFAULT).await?;
    if wanted("starts") {
        out.extend(starts(bench, &golden).await?);
    }
    if wanted("rates") {
        for callers in [1, 8] {
            out.extend(rate(bench, &golden, callers).await?);
        }
    }
    if wanted("pauses") {
        out.extend(pauses(bench, &self::golden(bench, data, IDLE).await?).await?);
        out.extend(same_dirt(bench).await?);
    }
    if wanted("snapshots") {
        out.push(stands_still(bench).await?);
    }
    if wanted("bytes") {
        out.extend(bytes(bench).await?);
    }
    if wanted("memory") {
        out.extend(memory(bench, &self::golden(bench, data, SMALL).await?).await?);
    }
    Ok(out)
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

async fn run(bench: &Bench, id: &str, cmd: &str, args: &[&str]) -> Result<()> {
    let args = args.iter().map(|word| (*word).to_owned()).collect();
    let request = ExecRequest { cmd: cmd.into(), args, ..ExecRequest::default() };
    let ended = bench.client.exec(id, &request).await?;
    ensure!(ended.exit_code == 0, "{cmd} ended with {}: {}", ended.exit_code, ended.stderr);
    Ok(())
}

fn sized(memory_mb: i64) -> CreateSandboxRequest {
    CreateSandboxRequest { memory_mb: Some(memory_mb), ..CreateSandboxRequest::default() }
}

/// Waits until creates with so much memory are restores; answers the files that they are restored from.
async fn golden(bench: &Bench, data: &Path, memory_mb: i64) -> Result<Image> {
    let begun = Instant::now();
    loop {
        let sandbox = bench.client.create(&sized(memory_mb)).await?;
        bench.client.destroy(&sandbox.id).await?;
        let phases = sandbox.host.map(|host| host.phases).unwrap_or_default();
        if phases.iter().any(|phase| phase.name == "restore") {
            break;
        }
        ensure!(begun.elapsed() < LIMIT, "there is no golden after {} s", LIMIT.as_secs());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let objects = std::fs::read_dir(data.join("objects"))?.collect::<std::io::Result<Vec<_>>>()?;
    let bytes = u64::try_from(memory_mb)? << 20;
    let whole = |path: &PathBuf| std::fs::metadata(path.join("memory.raw")).is_ok_and(|meta| meta.len() == bytes);
    let found = objects.into_iter().map(|entry| entry.path()).find(whole);
    Image::of_object(&found.context("no golden's object")?)
}

/// From asking to the first result: of a create and of a resume.
async fn starts(bench: &Bench, golden: &Image) -> Result<Vec<Series>> {
    let mut create = Series::new("create from a golden to first exec result, ms");
    let mut resume = Series::new("resume to first exec result, ms");
    let mut own = Series::new("CPU of Atoll and keeper for a create from a golden, ms (mean of all: ticks are 10 ms)");
    let mut state = Series::new("verification of a golden's device state (Atoll alone does it), hashed once more, ms");
    let mut diff = Series::new(
        "verification of a paused one's device state (Atoll alone) and changed memory (both), hashed once more, ms",
    );
    let sandbox = bench.client.create(&CreateSandboxRequest::default()).await?;
    let mut paused = bench.parts.restore(golden).await?.pause().await?.0;
    let mut spent = 0.0;
    for turn in 0..bench.pairs {
        for side in [turn % 2, (turn + 1) % 2] {
            if side == 0 {
                let begun = Instant::now();
                let vm = first(bench, golden).await?;
                create.bare.push(ms(begun));
                drop(vm);
                let begun = Instant::now();
                let vm = first(bench, &paused).await?;
                resume.bare.push(ms(begun));
                paused = vm.pause().await?.0;
            } else {
                let before = cpu::ms(bench.pid)?;
                let begun = Instant::now();
                let made = bench.client.create(&CreateSandboxRequest::default()).await?;
                run(bench, &made.id, "true", &[]).await?;
                create.atoll.push(ms(begun));
                let keeper = made.host.as_ref().and_then(|host| host.keeper_pid).context("no keeper is named")?;
                spent += cpu::ms(bench.pid)? - before + cpu::ms(keeper)?;
                bench.client.destroy(&made.id).await?;
                bench.client.pause(&sandbox.id, &MEMORY).await?;
                flat(bench, &sandbox).await?;
                let begun = Instant::now();
                bench.client.resume(&sandbox.id, &MEMORY).await?;
                run(bench, &sandbox.id, "true", &[]).await?;
                resume.atoll.push(ms(begun));
            }
        }
        state.atoll.push(golden.verification()?);
        diff.atoll.push(paused.verification()?);
        eprintln!("starts: pair {} of {}", turn + 1, bench.pairs);
    }
    bench.client.destroy(&sandbox.id).await?;
    own.atoll.push(spent / f64::from(u32::try_from(bench.pairs)?));
    Ok(vec![create, state, resume, diff, own])
}

async fn first(bench: &Bench, image: &Image) -> Result<CloneVm> {
    let vm = bench.parts.restore(image).await?;
    BareVm::exec(&vm.agent, "true", &[]).await?;
    Ok(vm)
}

/// Waits until a paused sandbox's first memory has become a base: only then does a pause cost what changed.
async fn flat(bench: &Bench, sandbox: &Sandbox) -> Result<()> {
    let directory = bench.client.sandbox(&sandbox.id).await?.host.context("no directory is named")?.directory;
    let begun = Instant::now();
    loop {
        let text = std::fs::read_to_string(Path::new(&directory).join("journal"))?;
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let last = lines.rev().find(|line| line["step"] == "paused" || line["step"] == "flattened");
        // On an empty base everything that the guest ever touched is in the diff.
        if last.is_none_or(|line| line["step"] == "flattened" || line["sources"]["base"]["kind"] != "empty") {
            return Ok(());
        }
        ensure!(begun.elapsed() < LIMIT, "its memory is never flat");
        tokio::time::sleep(POLL).await;
    }
}

/// Creates per second by so many callers at once, in rounds; ends are not counted.
async fn rate(bench: &Bench, golden: &Image, callers: usize) -> Result<Vec<Series>> {
    let mut rate = Series::new(&format!("creates from a golden per second, {callers} at once, by round"));
    let mut failed = Series::new(&format!("of {CREATES} creates so, failed"));
    let mut failures = 0;
    for round in 0..CREATES / callers {
        for side in [round % 2, (round + 1) % 2] {
            let begun = Instant::now();
            if side == 0 {
                let made = (0..callers).map(|_| bench.parts.restore(golden));
                let made = try_join_all(made).await?;
                rate.bare.push(f64::from(u32::try_from(callers)?) / begun.elapsed().as_secs_f64());
                drop(made);
            } else {
                let shape = CreateSandboxRequest::default();
                let made = (0..callers).map(|_| bench.client.create(&shape));
                let made = join_all(made).await;
                rate.atoll.push(f64::from(u32::try_from(callers)?) / begun.elapsed().as_secs_f64());
                let ends =
                    made.into_iter().flatten().map(|sandbox| async move { bench.client.destroy(&sandbox.id).await });
                let ended = try_join_all(ends).await?;
                failures += callers - ended.len();
            }
        }
        if round % 10 == 9 {
            eprintln!("{callers} at once: round {} of {}", round + 1, CREATES / callers);
        }
    }
    failed.atoll.push(f64::from(u32::try_from(failures)?));
    Ok(vec![rate, failed])
}

async fn pause(bench: &Bench, id: &str) -> Result<(f64, Paused)> {
    let begun = Instant::now();
    let paused = bench.client.pause(id, &MEMORY).await?.paused.context("it is not paused")?;
    Ok((ms(begun), paused))
}

/// Of a guest that does nothing, in turns with the bare sequence.
async fn pauses(bench: &Bench, golden: &Image) -> Result<Vec<Series>> {
    let mut took = Series::new("pause of an idle 256 MiB guest, ms");
    let mut written = Series::new("bytes written by it");
    let sandbox = bench.client.create(&sized(IDLE)).await?;
    pause(bench, &sandbox.id).await?;
    let mut image = bench.parts.restore(golden).await?.pause().await?.0;
    for turn in 0..bench.pairs {
        for side in [turn % 2, (turn + 1) % 2] {
            if side == 0 {
                let vm = first(bench, &image).await?;
                let begun = Instant::now();
                let (next, bytes) = vm.pause().await?;
                took.bare.push(ms(begun));
                written.bare.push(number(bytes));
                image = next;
            } else {
                bench.client.resume(&sandbox.id, &MEMORY).await?;
                run(bench, &sandbox.id, "true", &[]).await?;
                let (spent, paused) = pause(bench, &sandbox.id).await?;
                took.atoll.push(spent);
                written.atoll.push(number(paused.bytes));
            }
        }
        eprintln!("pauses: pair {} of {}", turn + 1, bench.pairs);
    }
    bench.client.destroy(&sandbox.id).await?;
    Ok(vec![took, written])
}

/// Bytes as a sample; a guest's are far below 2^52.
#[allow(clippy::cast_precision_loss)]
fn number(bytes: u64) -> f64 {
    bytes as f64
}

const DIRTY: &str = "dd if=/dev/urandom of=/dev/shm/dirty bs=1M count=20 conv=notrunc 2>/dev/null";

/// Twenty changed MiB in a large guest and in a small one.
async fn same_dirt(bench: &Bench) -> Result<Vec<Series>> {
    let mut took = Series::new("pause after 20 MiB were changed: in 1 GiB (bare: in 256 MiB), ms");
    let mut written = Series::new("bytes written by it");
    let (large, small) = (bench.client.create(&sized(1024)).await?, bench.client.create(&sized(IDLE)).await?);
    for each in [&large, &small] {
        run(bench, &each.id, "sh", &["-c", DIRTY]).await?;
        pause(bench, &each.id).await?;
        flat(bench, each).await?;
    }
    for turn in 0..bench.pairs.min(20) {
        for side in [turn % 2, (turn + 1) % 2] {
            let of = if side == 0 { &small } else { &large };
            bench.client.resume(&of.id, &MEMORY).await?;
            run(bench, &of.id, "sh", &["-c", DIRTY]).await?;
            let (spent, paused) = pause(bench, &of.id).await?;
            let (times, bytes) =
                if side == 0 { (&mut took.bare, &mut written.bare) } else { (&mut took.atoll, &mut written.atoll) };
            times.push(spent);
            bytes.push(number(paused.bytes));
        }
        eprintln!("the same changes: pair {}", turn + 1);
    }
    bench.client.destroy(&large.id).await?;
    bench.client.destroy(&small.id).await?;
    Ok(vec![took, written])
}

/// How long a running guest stands still for a template of it.
async fn stands_still(bench: &Bench) -> Result<Series> {
    let mut still = Series::new("snapshot of a running 512 MiB guest: it stands still, ms");
    let sandbox = bench.client.create(&CreateSandboxRequest::default()).await?;
    for turn in 0..bench.pairs.min(20) {
        let request = CreateSnapshotRequest { sandbox_id: sandbox.id.clone(), name: Some("bench".into()) };
        let made = bench.client.create_snapshot(&request, true).await?;
        still.atoll.push(made.stood_still_ms.context("it is not said how long")?);
        eprintln!("snapshot {}", turn + 1);
    }
    bench.client.delete_snapshot("bench").await?;
    bench.client.destroy(&sandbox.id).await?;
    Ok(still)
}

fn allocated(path: &Path) -> Result<u64> {
    let meta = std::fs::symlink_metadata(path)?;
    let mut sum = meta.blocks() * 512;
    if meta.is_dir() {
        for entry in std::fs::read_dir(path)? {
            sum += allocated(&entry?.path())?;
        }
    }
    Ok(sum)
}

/// What pauses write, and what is left of fifty of them.
async fn bytes(bench: &Bench) -> Result<Vec<Series>> {
    let mut written = Series::new("bytes written per pause of a 256 MiB guest that changed 20 MiB");
    let mut hurried = Series::new("the same of one that booted cold and is resumed before its memory was flattened");
    let mut left = Series::new("bytes allocated for it after all of these pauses");
    let cold = CreateSandboxRequest { boot: Some("cold".into()), ..sized(IDLE) };
    let hasty = bench.client.create(&cold).await?;
    for _ in 0..bench.pairs.min(10) {
        run(bench, &hasty.id, "sh", &["-c", DIRTY]).await?;
        hurried.atoll.push(number(pause(bench, &hasty.id).await?.1.bytes));
        bench.client.resume(&hasty.id, &MEMORY).await?;
    }
    bench.client.destroy(&hasty.id).await?;
    let sandbox = bench.client.create(&sized(IDLE)).await?;
    for turn in 0..bench.pairs {
        run(bench, &sandbox.id, "sh", &["-c", DIRTY]).await?;
        let (_, paused) = pause(bench, &sandbox.id).await?;
        written.atoll.push(number(paused.bytes));
        flat(bench, &sandbox).await?;
        if turn + 1 < bench.pairs {
            bench.client.resume(&sandbox.id, &MEMORY).await?;
        }
    }
    let host = bench.client.sandbox(&sandbox.id).await?.host.context("no directory is named")?;
    left.atoll.push(number(allocated(Path::new(&host.directory))?));
    bench.client.destroy(&sandbox.id).await?;
    Ok(vec![written, hurried, left])
}

fn available_kib() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find(|line| line.starts_with("MemAvailable:")).context("no MemAvailable")?;
    Ok(line.split_whitespace().nth(1).context("no number")?.parse()?)
}

/// What each idle sandbox of one golden takes from the machine, beside bare ones of the same.
async fn memory(bench: &Bench, golden: &Image) -> Result<Vec<Series>> {
    let mut taken = Series::new("MemAvailable taken per idle 128 MiB sandbox of one golden, from 20 to 60, KiB");
    let mut made = Vec::new();
    let mut at_few = 0.0;
    while made.len() < MANY {
        let sandbox = bench.client.create(&sized(SMALL)).await?;
        run(bench, &sandbox.id, "true", &[]).await?;
        made.push(sandbox.id);
        if made.len() == FEW {
            tokio::time::sleep(REST).await;
            at_few = available_kib()?;
        }
    }
    tokio::time::sleep(REST).await;
    let between = f64::from(u32::try_from(MANY - FEW)?);
    taken.atoll.push((at_few - available_kib()?) / between);
    try_join_all(made.iter().map(|id| bench.client.destroy(id))).await?;
    tokio::time::sleep(REST).await;
    let mut made = Vec::new();
    while made.len() < MANY {
        made.push(first(bench, golden).await?);
        if made.len() == FEW {
            tokio::time::sleep(REST).await;
            at_few = available_kib()?;
        }
    }
    tokio::time::sleep(REST).await;
    taken.bare.push((at_few - available_kib()?) / between);
    Ok(vec![taken])
}
