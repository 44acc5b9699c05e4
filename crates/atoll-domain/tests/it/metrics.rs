//! No sample is lost, none counts twice, keys never collide, and a replay is the same rings.

use std::collections::BTreeSet;

use atoll_domain::metrics::{CpuReading, Joined, Point, Rings, SAMPLE_MS, Tier, cpu_pct};
use proptest::prelude::*;

const START: i64 = 1_800_000_000_000;

fn sample(timestamp_ms: i64, value: u64) -> Point {
    Point {
        timestamp_ms,
        cpu_pct: f64::from(u32::try_from(value % 100).unwrap()),
        mem_bytes: value,
        disk_bytes: value * 3,
        guest_mem_bytes: value.is_multiple_of(10).then_some(value),
        guest_disk_bytes: None,
    }
}

/// Steps between samples: mostly the interval, at times a gap, at times backwards.
fn steps() -> impl Strategy<Value = Vec<i64>> {
    let one = prop_oneof![
        200 => Just(i64::try_from(SAMPLE_MS).unwrap()),
        5 => 0..2000i64,
        1 => 0..1_000_000i64,
        1 => -5000..0i64,
    ];
    proptest::collection::vec(one, 1..1500)
}

fn fill(steps: &[i64]) -> (Rings, Vec<Joined>) {
    let (mut rings, mut appended, mut at) = (Rings::default(), Vec::new(), START);
    for (n, step) in steps.iter().enumerate() {
        at += step;
        appended.extend(rings.push(sample(at, n as u64)));
    }
    (rings, appended)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_sample_is_in_each_tier_exactly_once(steps in steps()) {
        let (mut rings, mut appended) = fill(&steps);
        appended.extend(rings.close_partial());
        for tier in Tier::ALL {
            let keys: Vec<i64> = appended.iter().filter(|j| j.tier == tier).map(|j| j.point.timestamp_ms).collect();
            let unique: BTreeSet<i64> = keys.iter().copied().collect();
            prop_assert_eq!(keys.len(), unique.len(), "a key stands for one point");
            prop_assert!(keys.is_sorted());
        }
        let samples: Vec<i64> = appended.iter().filter(|j| j.tier == Tier::TenMinutes).map(|j| j.point.timestamp_ms).collect();
        prop_assert_eq!(samples.len(), steps.len());
        for tier in [Tier::TwoHours, Tier::Day] {
            // A mean stands for the samples since the one before it: together they are all.
            let ends: Vec<i64> = appended.iter().filter(|j| j.tier == tier).map(|j| j.point.timestamp_ms).collect();
            prop_assert_eq!(ends.last(), samples.last());
            let mut from = i64::MIN;
            for (end, mean) in ends.iter().zip(appended.iter().filter(|j| j.tier == tier)) {
                let part: Vec<u64> = appended.iter()
                    .filter(|j| j.tier == Tier::TenMinutes && j.point.timestamp_ms > from && j.point.timestamp_ms <= *end)
                    .map(|j| j.point.mem_bytes).collect();
                prop_assert!(!part.is_empty() && part.len() as u64 <= tier.interval_ms() / SAMPLE_MS);
                prop_assert_eq!(mean.point.mem_bytes, part.iter().sum::<u64>() / part.len() as u64);
                from = *end;
            }
        }
        for tier in Tier::ALL {
            prop_assert!(rings.points(tier).len() <= tier.capacity());
        }
    }

    #[test]
    fn a_replay_of_what_was_appended_goes_on_as_if_nothing_had_happened(steps in steps(), cut in 0..1500usize) {
        let cut = cut.min(steps.len());
        let (mut rings, appended) = fill(&steps[..cut]);
        let mut again = Rings::replay(appended);
        let mut compacted = Rings::replay(rings.all());
        for tier in Tier::ALL {
            prop_assert_eq!(rings.points(tier), again.points(tier));
            prop_assert_eq!(rings.points(tier), compacted.points(tier));
        }
        let next = sample(rings.newest().unwrap_or(START) + 500, 7);
        let joined = rings.push(next);
        prop_assert_eq!(&joined, &again.push(next));
        prop_assert_eq!(&joined, &compacted.push(next));
    }

    #[test]
    fn cpu_is_a_share_of_all_virtual_cpus(busy in 0..400u64, vcpus in 1..8u32) {
        let before = CpuReading { ticks: 1000, at_micros: 5_000_000 };
        let now = CpuReading { ticks: 1000 + busy, at_micros: 6_000_000 };
        let pct = cpu_pct(before, now, 100, vcpus).unwrap();
        let expected = (f64::from(u32::try_from(busy).unwrap()) / f64::from(vcpus)).min(100.0);
        prop_assert!((pct - expected).abs() < 1e-9, "{} {}", pct, expected);
    }
}

#[test]
fn a_first_reading_and_another_process_only_prime() {
    let reading = |ticks, at_micros| CpuReading { ticks, at_micros };
    assert_eq!(cpu_pct(reading(5, 100), reading(4, 200), 100, 1), None);
    assert_eq!(cpu_pct(reading(5, 100), reading(9, 100), 100, 1), None);
}

#[test]
fn a_life_of_a_few_seconds_leaves_a_point_in_every_tier() {
    let (mut rings, _) = fill(&[500; 7]);
    let closed = rings.close_partial();
    assert_eq!(closed.iter().map(|j| j.tier).collect::<Vec<_>>(), [Tier::TwoHours, Tier::Day]);
    assert_eq!(Tier::ALL.map(|tier| rings.points(tier).len()), [7, 1, 1]);
    assert_eq!(rings.points(Tier::Day)[0].mem_bytes, 3);
    assert!(rings.close_partial().is_empty(), "nothing twice");
}

#[test]
fn the_tiers_are_the_seeds() {
    let (rings, appended) = fill(&[500; 2400]);
    assert_eq!(rings.points(Tier::TenMinutes).len(), 1200);
    assert_eq!(appended.iter().filter(|j| j.tier == Tier::TwoHours).count(), 40);
    assert_eq!(appended.iter().filter(|j| j.tier == Tier::Day).count(), 4);
    assert_eq!(Tier::ALL.map(Tier::as_str), ["10m", "2h", "24h"]);
}
