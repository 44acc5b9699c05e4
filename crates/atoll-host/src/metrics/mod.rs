//! What each sandbox uses, sampled every 500 ms.
//!
//! How it works: one task for all sandboxes. A tick reads two files of each (the VMM's `/proc/PID/stat`, kept open, and the size of its
//! disk), puts a point into the sandbox's rings (`atoll_domain::metrics`) and appends it to the file `metrics` in its directory
//! ([`file`]), from which the next Atoll goes on. Reading and flushing never stop the sampling.
//!
//! What the guest says of itself is noted by its actor every five seconds.
//!
//! Deliberately absent: the database, which is the control plane's.

pub(crate) mod file;
mod process;
pub(crate) mod sampling;

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use atoll_domain::SandboxId;
use atoll_domain::metrics::{CpuReading, Joined, Point, Rings, Tier, cpu_pct};

use file::PointFile;
use process::{Process, Units};

const BLOCK: u64 = 512;

/// A running sandbox, as the sampling sees it.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) id: SandboxId,
    pub(crate) dir: PathBuf,
    pub(crate) vmm_pid: u32,
    pub(crate) vcpus: u32,
}

/// What a guest says that it uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GuestUsage {
    pub(crate) mem_bytes: u64,
    pub(crate) disk_bytes: u64,
}

/// The rings of one sandbox and where its numbers come from.
#[derive(Debug)]
struct Series {
    rings: Rings,
    file: Option<PointFile>,
    process: Option<Process>,
    last: Option<CpuReading>,
    guest: Option<GuestUsage>,
}

/// The rings of all sandboxes.
#[derive(Debug)]
pub(crate) struct Metrics {
    series: Mutex<HashMap<SandboxId, Arc<Mutex<Series>>>>,
    units: Units,
    since: Instant,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic in between leaves whole points in the rings.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self { series: Mutex::default(), units: Units::of_machine(), since: Instant::now() }
    }

    /// Takes one sample of each; forgets sandboxes that are not among them. Blocks for a few file reads a sandbox.
    pub(crate) fn sample(&self, targets: &[Target]) {
        let all: Vec<_> = {
            let mut series = held(&self.series);
            series.retain(|id, _| targets.iter().any(|target| target.id == *id));
            let mut of = |target: &Target| Arc::clone(series.entry(target.id.clone()).or_insert_with(|| begin(target)));
            targets.iter().map(&mut of).collect()
        };
        for (target, series) in targets.iter().zip(all) {
            self.sample_one(target, &mut held(&series));
        }
    }

    fn sample_one(&self, target: &Target, series: &mut Series) {
        if series.process.as_ref().is_none_or(|process| process.pid != target.vmm_pid) {
            series.process = Process::open(target.vmm_pid).ok();
            series.last = None;
        }
        // A VMM that ended, or a directory that is being removed: the sandbox's actor knows.
        let Some(usage) = series.process.as_ref().and_then(|process| process.usage(self.units)) else { return };
        let Ok(disk) = std::fs::metadata(target.dir.join("cow.raw")) else { return };
        let at_micros = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        let now = CpuReading { ticks: usage.ticks, at_micros };
        let Some(last) = series.last.replace(now) else { return };
        let Some(cpu_pct) = cpu_pct(last, now, self.units.ticks_per_second, target.vcpus) else { return };
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let joined = series.rings.push(Point {
            timestamp_ms: i64::try_from(wall.as_millis()).unwrap_or(i64::MAX),
            cpu_pct,
            mem_bytes: usage.resident,
            disk_bytes: disk.blocks() * BLOCK,
            guest_mem_bytes: series.guest.map(|guest| guest.mem_bytes),
            guest_disk_bytes: series.guest.map(|guest| guest.disk_bytes),
        });
        keep(target, series, &joined);
    }

    /// Takes over what a guest says of itself; it stands in the samples until it says something else.
    pub(crate) fn note_guest(&self, id: &SandboxId, usage: Option<GuestUsage>) {
        if let Some(series) = self.of(id) {
            held(&series).guest = usage;
        }
    }

    /// Closes what is incomplete of a sandbox whose VM is gone: from then on its file holds all of it. Whether it was sampled by this
    /// Atoll or an earlier one plays no part; a second time changes nothing. Blocks.
    pub(crate) fn close(&self, id: &SandboxId, dir: &Path) -> std::io::Result<()> {
        let (mut file, stored) = PointFile::open(dir)?;
        let Some(series) = self.of(id) else {
            let mut rings = stored;
            return file.append(&rings.close_partial());
        };
        let closed = {
            let mut series = held(&series);
            let closed = series.rings.close_partial();
            // A file that failed once was left alone since: what it lacks is in the rings.
            if series.file.is_some() { file.append(&closed) } else { file.rewrite(&series.rings.all()) }
        };
        // Last: who asks for all of it finds all of it, here or in the file.
        held(&self.series).remove(id);
        closed
    }

    /// What the file of a sandbox that is not sampled holds. Blocks.
    pub(crate) fn stored(dir: &Path) -> std::io::Result<Rings> {
        PointFile::open(dir).map(|(_, rings)| rings)
    }

    fn of(&self, id: &SandboxId) -> Option<Arc<Mutex<Series>>> {
        held(&self.series).get(id).cloned()
    }

    /// The points of a tier; none for a sandbox that was not sampled yet.
    pub(crate) fn points(&self, id: &SandboxId, tier: Tier) -> Vec<Point> {
        self.of(id).map(|series| held(&series).rings.points(tier)).unwrap_or_default()
    }

    /// Everything of all tiers, with what was incomplete closed; the sampling goes on. Nothing where it is not sampled.
    pub(crate) fn flush(&self, id: &SandboxId) -> Option<Vec<Joined>> {
        let series = self.of(id)?;
        let mut series = held(&series);
        let closed = series.rings.close_partial();
        if let Some(Err(error)) = series.file.as_mut().map(|file| file.append(&closed)) {
            tracing::warn!(sandbox.id = %id, %error, "closed metrics could not be appended");
        }
        Some(series.rings.all())
    }
}

fn begin(target: &Target) -> Arc<Mutex<Series>> {
    let (file, rings) = match PointFile::open(&target.dir) {
        Ok((file, rings)) => (Some(file), rings),
        Err(error) => {
            tracing::warn!(sandbox.id = %target.id, %error, "metrics are not kept over a restart");
            (None, Rings::default())
        }
    };
    Arc::new(Mutex::new(Series { rings, file, process: None, last: None, guest: None }))
}

/// Appends what joined; a file that fails is left alone from then on, the rings are not.
fn keep(target: &Target, series: &mut Series, joined: &[Joined]) {
    let Some(file) = &mut series.file else { return };
    let kept = if file.is_full() { file.rewrite(&series.rings.all()) } else { file.append(joined) };
    if let Err(error) = kept {
        tracing::warn!(sandbox.id = %target.id, %error, "metrics are not kept over a restart any more");
        series.file = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This test's own process stands for a VMM, a directory of its own for a sandbox's.
    fn target(n: u8) -> (Target, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cow.raw"), vec![1; 8192]).unwrap();
        file::create(dir.path()).unwrap();
        let id = SandboxId::from_random([n; 16]);
        (Target { id, dir: dir.path().to_owned(), vmm_pid: std::process::id(), vcpus: 1 }, dir)
    }

    /// Ticks until there are so many samples; each needs the clock to have moved.
    fn sample(metrics: &Metrics, target: &Target, count: usize) -> Vec<Point> {
        loop {
            metrics.sample(std::slice::from_ref(target));
            let points = metrics.points(&target.id, Tier::TenMinutes);
            if points.len() >= count {
                return points;
            }
        }
    }

    #[test]
    fn samples_say_what_the_process_and_the_disk_use() {
        let (target, _dir) = target(1);
        let points = sample(&Metrics::new(), &target, 3);
        assert!(points.iter().all(|point| point.mem_bytes > 1024 * 1024 && point.disk_bytes >= 8192), "{points:?}");
        assert!(points.is_sorted_by(|a, b| a.timestamp_ms < b.timestamp_ms));
    }

    #[test]
    fn the_next_atoll_goes_on_with_the_rings_and_a_flush_stops_nothing() {
        let (target, _dir) = target(2);
        let first = Metrics::new();
        sample(&first, &target, 5);
        let flushed = first.flush(&target.id).unwrap();
        assert_eq!(flushed.iter().filter(|joined| joined.tier == Tier::Day).count(), 1, "a short life has its point");
        let before = sample(&first, &target, 8);
        let second = Metrics::new();
        let after = sample(&second, &target, before.len() + 1);
        assert_eq!(after[..before.len()], before);
        assert_eq!(second.points(&target.id, Tier::Day).len(), 2, "the flushed one and the one that is filling");
    }

    #[test]
    fn what_was_incomplete_is_in_the_file_of_a_paused_one_whoever_sampled_it_last() {
        for sampled_meanwhile in [true, false] {
            let (target, _dir) = target(4);
            let metrics = Metrics::new();
            let points = sample(&metrics, &target, 4);
            if !sampled_meanwhile {
                metrics.sample(&[]);
            }
            let mut twice = (0..2).map(|_| {
                metrics.close(&target.id, &target.dir).unwrap();
                Metrics::stored(&target.dir).unwrap().all()
            });
            let (first, again) = (twice.next().unwrap(), twice.next().unwrap());
            assert_eq!(first, again);
            for tier in [Tier::TwoHours, Tier::Day] {
                let means: Vec<Point> = first.iter().filter(|one| one.tier == tier).map(|one| one.point).collect();
                let sum: u64 = points.iter().map(|point| point.mem_bytes).sum();
                assert_eq!(means.iter().map(|mean| mean.mem_bytes).collect::<Vec<_>>(), [sum / points.len() as u64]);
            }
        }
    }

    #[test]
    fn who_ended_or_is_not_asked_for_is_forgotten_without_a_point() {
        let (mut target, _dir) = target(3);
        let metrics = Metrics::new();
        sample(&metrics, &target, 1);
        metrics.sample(&[]);
        assert!(metrics.points(&target.id, Tier::TenMinutes).is_empty());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        target.vmm_pid = child.id();
        child.wait().unwrap();
        metrics.sample(std::slice::from_ref(&target));
        metrics.sample(std::slice::from_ref(&target));
        assert_eq!(metrics.points(&target.id, Tier::TenMinutes).len(), 1, "what was kept, and no more");
    }

    /// `cargo test -p atoll-host -- --ignored --nocapture cost`
    #[test]
    #[ignore = "a measurement"]
    fn cost_of_a_hundred_sandboxes() {
        let all: Vec<_> = (0..100).map(target).collect();
        let targets: Vec<Target> = all.iter().map(|(target, _)| target.clone()).collect();
        let metrics = Metrics::new();
        let own = Process::open(std::process::id()).unwrap();
        let before = own.usage(metrics.units).unwrap().ticks;
        const TICKS: u32 = 1200;
        for _ in 0..TICKS {
            metrics.sample(&targets);
        }
        let ticks = own.usage(metrics.units).unwrap().ticks - before;
        let seconds = f64::from(u32::try_from(ticks).unwrap()) / f64::from(metrics.units.ticks_per_second);
        println!(
            "100 sandboxes: {:.3} ms CPU a tick, {:.2} % of a core at two ticks a second",
            seconds * 1000.0 / f64::from(TICKS),
            seconds / f64::from(TICKS) * 200.0
        );
    }
}
