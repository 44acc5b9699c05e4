//! Goldens stay within their budget, the least recently used goes first, and plans come to rest, also when goldens turn out larger than
//! they were expected to be.

use std::collections::BTreeMap;

use atoll_domain::Shape;
use atoll_domain::golden::{Golden, GoldenShape, Plan, Start, Wanted, WhyCold, plan, start};
use atoll_domain::snapshot::Digest;
use proptest::prelude::*;

fn shape(n: u32) -> GoldenShape {
    GoldenShape { vcpus: 1 + n % 2, memory_mb: 256 * (1 + n) }
}

fn worlds() -> impl Strategy<Value = (Vec<Wanted>, Vec<Golden>, u64)> {
    let wanted = proptest::collection::vec((0..5u32, 1..100u64), 0..6).prop_map(|list| {
        let one = |(n, bytes)| Wanted { template: "base".into(), shape: shape(n), identity: Digest([1; 32]), bytes };
        list.into_iter().map(one).collect::<Vec<_>>()
    });
    let there = proptest::collection::vec((0..5u32, 0..3u8, 0..4u8, 1..100u64, 0..50u64), 0..6).prop_map(|list| {
        let mut out: Vec<Golden> = Vec::new();
        for (n, identity, usable, bytes, used) in list {
            let (identity, usable) = (Digest([identity; 32]), usable > 0);
            let golden = Golden { template: "base".into(), shape: shape(n), identity, usable, bytes, used };
            if !out.iter().any(|g| g.shape == golden.shape && g.identity == golden.identity) {
                out.push(golden);
            }
        }
        out
    });
    (wanted, there, 0..300u64)
}

fn carry_out(plan: &Plan, wanted: &[Wanted], there: &[Golden]) -> Vec<Golden> {
    let kept = there.iter().enumerate().filter(|(at, _)| !plan.drop.contains(at)).map(|(_, golden)| golden.clone());
    let booted = plan.boot.iter().map(|at| {
        let Wanted { template, shape, identity, bytes } = wanted[*at].clone();
        Golden { template, shape, identity, usable: true, bytes, used: 100 }
    });
    kept.chain(booted).collect()
}

proptest! {
    #[test]
    fn a_plan_fits_the_budget_and_the_next_changes_nothing((wanted, there, budget) in worlds()) {
        let first = plan(&wanted, &there, budget);
        let after = carry_out(&first, &wanted, &there);
        prop_assert!(after.iter().map(|g| g.bytes).sum::<u64>() <= budget);
        let wants = |g: &Golden| wanted.iter().any(|w| w.shape == g.shape && w.identity == g.identity);
        prop_assert!(after.iter().all(|g| g.usable && wants(g)));
        prop_assert_eq!(plan(&wanted, &after, budget), Plan::default());
        for (at, golden) in there.iter().enumerate() {
            let kept = !first.drop.contains(&at);
            // Whoever was dropped for want of room was used no later than anybody who stayed.
            if !kept && golden.usable && golden.identity == Digest([1; 32]) && wanted.iter().any(|w| w.shape == golden.shape) {
                let stayed = there.iter().enumerate().filter(|(other, _)| !first.drop.contains(other));
                prop_assert!(stayed.clone().all(|(_, other)| other.used >= golden.used));
            }
        }
    }

    #[test]
    fn what_turns_out_larger_is_booted_once_and_never_again(
        (mut wanted, mut there, budget) in worlds(),
        real in proptest::collection::vec(1..200u64, 5),
    ) {
        let real = |shape: GoldenShape| real[usize::try_from(shape.memory_mb / 256 - 1).unwrap()];
        let mut boots: BTreeMap<GoldenShape, u32> = BTreeMap::new();
        there.retain(|golden| golden.usable && golden.identity == Digest([1; 32]));
        there.iter_mut().for_each(|golden| golden.bytes = real(golden.shape));
        // As the host does it: one at a time, its size kept from then on, also when it is dropped.
        for start in 0..2 {
            loop {
                let Plan { drop, boot } = plan(&wanted, &there, budget);
                for golden in drop.iter().map(|at| &there[*at]) {
                    wanted.iter_mut().filter(|w| w.shape == golden.shape).for_each(|w| w.bytes = golden.bytes);
                }
                there = (0..there.len()).filter(|at| !drop.contains(at)).map(|at| there[at].clone()).collect();
                let Some(at) = boot.first() else {
                    if drop.is_empty() {
                        break;
                    }
                    continue;
                };
                let Wanted { template, shape, identity, .. } = wanted[*at].clone();
                wanted.iter_mut().filter(|w| w.shape == shape).for_each(|w| w.bytes = real(shape));
                *boots.entry(shape).or_default() += 1;
                prop_assert_eq!(start, 0, "a second start boots nothing");
                there.push(Golden { template, shape, identity, usable: true, bytes: real(shape), used: 0 });
                prop_assert!(boots[&shape] == 1, "{:?}", boots);
            }
            prop_assert!(there.iter().map(|g| g.bytes).sum::<u64>() <= budget);
        }
    }

    #[test]
    fn a_budget_of_nothing_drops_everything((wanted, there, _) in worlds()) {
        let plan = plan(&wanted, &there, 0);
        prop_assert_eq!(plan.drop.len(), there.len());
        prop_assert!(plan.boot.is_empty());
    }
}

#[test]
fn a_create_restores_what_fits_and_says_why_it_boots_otherwise() {
    let identity = Digest([1; 32]);
    let golden = Golden { template: "base".into(), shape: shape(1), identity, usable: true, bytes: 1, used: 0 };
    let of = |disk_mb| Shape { disk_mb, ..shape(1).shape() };
    let unusable = [Golden { usable: false, ..golden.clone() }];
    assert_eq!(start("base", of(5120), &identity, false, &unusable), Start::Cold(WhyCold::NoGolden));
    let there = [golden];
    assert_eq!(start("base", of(5120), &identity, false, &there), Start::Restore { golden: 0, grow: false });
    assert_eq!(start("base", of(5121), &identity, false, &there), Start::Restore { golden: 0, grow: true });
    assert_eq!(start("base", of(1024), &identity, false, &there), Start::Cold(WhyCold::SmallDisk));
    assert_eq!(start("base", of(5120), &identity, true, &there), Start::Cold(WhyCold::Asked));
    assert_eq!(start("other", of(5120), &identity, false, &there), Start::Cold(WhyCold::NoGolden));
    assert_eq!(start("base", of(5120), &Digest([2; 32]), false, &there), Start::Cold(WhyCold::NoGolden));
}

#[test]
fn shapes_are_read_and_checked() {
    assert_eq!(GoldenShape::parse(" 2x1024"), Ok(GoldenShape { vcpus: 2, memory_mb: 1024 }));
    for bad in ["", "1", "x", "0x512", "1x64", "33x512", "1x512x1", "-1x512"] {
        assert!(GoldenShape::parse(bad).is_err(), "{bad}");
    }
}
