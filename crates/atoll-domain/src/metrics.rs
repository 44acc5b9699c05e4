//! What a sandbox uses, over time.
//!
//! How it works: a sample every 500 ms goes into three rings: the samples themselves (10 minutes), means of 30 seconds (2 hours), means of
//! 5 minutes (24 hours). A mean bears the time of its last sample and is closed when it has all its samples, or when so much time has
//! passed (after a gap), or by a flush: what a short life used is never dropped. Times are milliseconds and strictly increasing, so
//! that (sandbox, tier, time) is a key and no point shadows another. [`Rings::replay`] makes the same rings again from what was
//! appended to a file, so that they survive the process that fills them.
//!
//! Deliberately absent: reading /proc, files, the database.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Time between samples.
pub const SAMPLE_MS: u64 = 500;

/// One of the rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tier {
    /// Samples of 10 minutes.
    #[serde(rename = "10m")]
    TenMinutes,
    /// Means of 30 s over 2 hours.
    #[serde(rename = "2h")]
    TwoHours,
    /// Means of 5 minutes over 24 hours.
    #[serde(rename = "24h")]
    Day,
}

impl Tier {
    /// Every tier, the finest first.
    pub const ALL: [Self; 3] = [Self::TenMinutes, Self::TwoHours, Self::Day];

    /// The wire name: the range that it covers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TenMinutes => "10m",
            Self::TwoHours => "2h",
            Self::Day => "24h",
        }
    }

    /// Reads a wire name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tier| tier.as_str() == text)
    }

    /// How many points it holds.
    pub fn capacity(self) -> usize {
        match self {
            Self::TenMinutes => 1200,
            Self::TwoHours => 240,
            Self::Day => 288,
        }
    }

    /// Milliseconds from one point to the next.
    pub fn interval_ms(self) -> u64 {
        match self {
            Self::TenMinutes => SAMPLE_MS,
            Self::TwoHours => 30_000,
            Self::Day => 300_000,
        }
    }

    /// Milliseconds that a full ring goes back.
    pub fn span_ms(self) -> i64 {
        let intervals = u64::try_from(self.capacity()).unwrap_or(u64::MAX);
        i64::try_from(intervals.saturating_mul(self.interval_ms())).unwrap_or(i64::MAX)
    }

    /// How many samples a point is the mean of.
    fn samples(self) -> u64 {
        self.interval_ms() / SAMPLE_MS
    }
}

/// What was used at one moment, or on average up to it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Per cent of the sandbox's virtual CPUs, 0 to 100.
    pub cpu_pct: f64,
    /// Resident bytes of the VMM.
    pub mem_bytes: u64,
    /// Allocated bytes of the sandbox's own disk.
    pub disk_bytes: u64,
    /// Used memory as the guest sees it, where its agent said so.
    pub guest_mem_bytes: Option<u64>,
    /// Used bytes of the root file system as the guest sees it, where its agent said so.
    pub guest_disk_bytes: Option<u64>,
}

impl Point {
    /// Seconds since 1970.
    pub fn timestamp_unix(&self) -> i64 {
        self.timestamp_ms.div_euclid(1000)
    }
}

/// CPU time used up to a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuReading {
    /// User and system time in clock ticks.
    pub ticks: u64,
    /// When it was read, in microseconds of a clock that never jumps.
    pub at_micros: u64,
}

/// CPU per cent between two readings: 100 is all virtual CPUs busy. `None` if no time has passed or the counter ran backwards
/// (another process): such a reading only primes the next.
pub fn cpu_pct(before: CpuReading, now: CpuReading, ticks_per_second: u32, vcpus: u32) -> Option<f64> {
    let ticks = now.ticks.checked_sub(before.ticks)?;
    let micros = now.at_micros.checked_sub(before.at_micros).filter(|micros| *micros > 0)?;
    let seconds = float(micros) / 1e6;
    let used = float(ticks) / f64::from(ticks_per_second.max(1));
    Some((used / seconds / f64::from(vcpus.max(1)) * 100.0).clamp(0.0, 100.0))
}

/// As a float; byte counts and sums of them lie far below 2^53 times their own precision.
#[allow(clippy::cast_precision_loss)]
fn float(value: u64) -> f64 {
    value as f64
}

/// Samples on their way to a mean.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Bucket {
    first_ms: i64,
    last_ms: i64,
    count: u64,
    cpu: f64,
    mem: u128,
    disk: u128,
    guest_mem: (u64, u128),
    guest_disk: (u64, u128),
}

impl Bucket {
    fn add(&mut self, point: &Point) {
        if self.count == 0 {
            self.first_ms = point.timestamp_ms;
        }
        self.last_ms = point.timestamp_ms;
        self.count += 1;
        self.cpu += point.cpu_pct;
        self.mem += u128::from(point.mem_bytes);
        self.disk += u128::from(point.disk_bytes);
        for (sum, value) in
            [(&mut self.guest_mem, point.guest_mem_bytes), (&mut self.guest_disk, point.guest_disk_bytes)]
        {
            if let Some(value) = value {
                sum.0 += 1;
                sum.1 += u128::from(value);
            }
        }
    }

    fn mean(&self) -> Option<Point> {
        let over = |sum: u128, count: u64| u64::try_from(sum / u128::from(count.max(1))).unwrap_or(u64::MAX);
        (self.count > 0).then(|| Point {
            timestamp_ms: self.last_ms,
            cpu_pct: (self.cpu / float(self.count)).clamp(0.0, 100.0),
            mem_bytes: over(self.mem, self.count),
            disk_bytes: over(self.disk, self.count),
            guest_mem_bytes: (self.guest_mem.0 > 0).then(|| over(self.guest_mem.1, self.guest_mem.0)),
            guest_disk_bytes: (self.guest_disk.0 > 0).then(|| over(self.guest_disk.1, self.guest_disk.0)),
        })
    }

    /// Whether a sample of this time begins the next one.
    fn is_past(&self, timestamp_ms: i64, tier: Tier) -> bool {
        let span = timestamp_ms.saturating_sub(self.first_ms);
        self.count > 0 && u64::try_from(span).unwrap_or(0) >= tier.interval_ms()
    }
}

/// A point that joined a ring: what is appended to the file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Joined {
    /// Which ring.
    pub tier: Tier,
    /// The point.
    pub point: Point,
}

/// The three rings of one sandbox.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Rings {
    rings: [VecDeque<Point>; 3],
    /// Of the two coarser tiers.
    buckets: [Bucket; 2],
}

const COARSE: [Tier; 2] = [Tier::TwoHours, Tier::Day];

impl Rings {
    /// Takes a sample in; answers every point that joined a ring, in the order in which they are to be appended to a file. A time
    /// that is not after the last one (the clock was set back) is moved behind it.
    pub fn push(&mut self, mut sample: Point) -> Vec<Joined> {
        if let Some(last) = self.rings[0].back() {
            sample.timestamp_ms = sample.timestamp_ms.max(last.timestamp_ms.saturating_add(1));
        }
        let mut joined = Vec::with_capacity(1);
        for (bucket, tier) in self.buckets.into_iter().zip(COARSE) {
            // After a gap: the samples before it are a point of their own.
            if bucket.is_past(sample.timestamp_ms, tier) {
                joined.extend(self.close(tier));
            }
        }
        joined.push(self.join(Tier::TenMinutes, sample));
        for (at, tier) in COARSE.into_iter().enumerate() {
            self.buckets[at].add(&sample);
            if self.buckets[at].count >= tier.samples() {
                joined.extend(self.close(tier));
            }
        }
        joined
    }

    /// Closes what is incomplete, so that a flush holds every sample exactly once; sampling may go on afterwards.
    pub fn close_partial(&mut self) -> Vec<Joined> {
        COARSE.into_iter().filter_map(|tier| self.close(tier)).collect()
    }

    /// The points of a tier, the oldest first; the samples that are no whole point yet are the last one.
    pub fn points(&self, tier: Tier) -> Vec<Point> {
        let ring = self.rings[index(tier)].iter().copied();
        let partial = COARSE.iter().position(|coarse| *coarse == tier).and_then(|at| self.buckets[at].mean());
        ring.chain(partial).collect()
    }

    /// Everything that is in the rings, as [`Rings::replay`] takes it.
    pub fn all(&self) -> Vec<Joined> {
        let of = |tier: Tier| self.rings[index(tier)].iter().map(move |point| Joined { tier, point: *point });
        let mut all: Vec<Joined> = Tier::ALL.into_iter().flat_map(of).collect();
        // A closed mean stands behind its last sample, as it was appended.
        all.sort_by_key(|joined| (joined.point.timestamp_ms, joined.tier));
        all
    }

    /// Makes the rings again from what was appended, whole or from any point on.
    pub fn replay(appended: impl IntoIterator<Item = Joined>) -> Self {
        let mut rings = Self::default();
        for Joined { tier, point } in appended {
            let ring = &rings.rings[index(tier)];
            if ring.back().is_some_and(|last| last.timestamp_ms >= point.timestamp_ms) {
                continue;
            }
            rings.join(tier, point);
            match COARSE.iter().position(|coarse| *coarse == tier) {
                None => rings.buckets.iter_mut().for_each(|bucket| bucket.add(&point)),
                Some(at) => rings.buckets[at] = Bucket::default(),
            }
        }
        rings
    }

    /// The time of the newest sample, in milliseconds since 1970.
    pub fn newest(&self) -> Option<i64> {
        self.rings[0].back().map(|point| point.timestamp_ms)
    }

    fn close(&mut self, tier: Tier) -> Option<Joined> {
        let at = COARSE.iter().position(|coarse| *coarse == tier)?;
        let mean = std::mem::take(&mut self.buckets[at]).mean()?;
        Some(self.join(tier, mean))
    }

    fn join(&mut self, tier: Tier, point: Point) -> Joined {
        let ring = &mut self.rings[index(tier)];
        if ring.len() >= tier.capacity() {
            ring.pop_front();
        }
        ring.push_back(point);
        Joined { tier, point }
    }
}

fn index(tier: Tier) -> usize {
    match tier {
        Tier::TenMinutes => 0,
        Tier::TwoHours => 1,
        Tier::Day => 2,
    }
}
