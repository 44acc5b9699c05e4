//! Claims: never shared, given back only by their owner, and everything derived from them distinct.

use std::collections::{HashMap, HashSet};

use atoll_domain::{InstanceId, Network, SandboxId};
use atoll_net::{NetConfig, NetError, Pool, SLOTS, Slot, Slots, plan};
use proptest::prelude::*;

fn instance(text: &str) -> InstanceId {
    InstanceId::try_from(text.to_owned()).unwrap()
}

fn sandbox(n: u8) -> SandboxId {
    SandboxId::from_random([n; 16])
}

fn pool(text: &str) -> Pool {
    Pool::parse(text).unwrap()
}

/// The smallest one.
fn small() -> Pool {
    pool("10.213.4.0/24")
}

#[test]
fn a_claim_is_kept_until_its_owner_gives_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let slots = Slots::at(dir.path());
    let (a, b) = (instance("aaaaaa"), instance("bbbbbb"));
    let first = slots.claim(&a, &sandbox(1), small()).unwrap();
    assert_eq!(slots.claim(&a, &sandbox(1), small()).unwrap(), first, "claiming again gives the same");
    let second = slots.claim(&b, &sandbox(1), small()).unwrap();
    assert_ne!(first, second, "the same sandbox id of another instance is another sandbox");
    let third = slots.claim(&b, &sandbox(2), small()).unwrap();
    for n in 3..small().slots() {
        slots.claim(&a, &sandbox(u8::try_from(n).unwrap()), small()).unwrap();
    }
    let last = sandbox(u8::MAX);
    assert!(matches!(slots.claim(&a, &last, small()), Err(NetError::NoSlot { limit: 128 })));
    slots.release(&a, &sandbox(2)).unwrap();
    assert_eq!(slots.of_instance(&b).unwrap(), [(second, sandbox(1)), (third, sandbox(2))]);
    slots.release(&b, &sandbox(1)).unwrap();
    assert_eq!(slots.claim(&a, &last, small()).unwrap(), second, "the freed number is used again");
}

#[test]
fn pools_that_overlap_share_no_address() {
    let dir = tempfile::tempdir().unwrap();
    let slots = Slots::at(dir.path());
    // What the first has from its number 128 on, the second has from its 0 on.
    let (one, shifted) = (pool("10.213.0.0/16"), pool("10.213.1.0/24"));
    let other = pool("10.213.0.0/24");
    let mut addresses = HashSet::new();
    for n in 0..240 {
        let (instance, pool) = match n % 3 {
            0 => (instance("aaaaaa"), one),
            1 => (instance("bbbbbb"), shifted),
            _ => (instance("cccccc"), other),
        };
        let Ok(slot) = slots.claim(&instance, &sandbox(n), pool) else { continue };
        assert!(addresses.insert(pool.link(slot.0).0), "{slot:?} of {pool}");
    }
    assert!(addresses.len() > 128, "{}", addresses.len());
    // A claim of an older Atoll says nothing of its address.
    std::fs::write(dir.path().join("slots/999"), format!("{{\"instance\":\"dddddd\",\"sandbox\":\"{}\"}}", sandbox(1)))
        .unwrap();
    let old = instance("dddddd");
    assert_eq!(slots.of_instance(&old).unwrap(), [(Slot(999), sandbox(1))]);
    // Whoever takes its sandbox over says it: then nobody else gets that address.
    let (large, apart) = (pool("10.77.0.0/16"), pool("10.77.5.0/24"));
    slots.claim_again(&old, &sandbox(1), large, Slot(999)).unwrap();
    let told = std::fs::read_to_string(dir.path().join("slots/999")).unwrap();
    assert!(told.contains("10.77.7.206"), "{told}");
    slots.claim_again(&old, &sandbox(1), large, Slot(999)).unwrap();
    let taken = slots.claim_again(&instance("eeeeee"), &sandbox(2), apart, Slot(359)).unwrap_err();
    assert!(matches!(&taken, NetError::SlotTaken { instance, .. } if *instance == old), "{taken:?}");
    let kept = slots.of_instance(&instance("eeeeee")).unwrap();
    assert_eq!(kept, [(Slot(359), sandbox(2))], "its VM runs with that number");
}

#[test]
fn wiped_claims_are_made_again_under_the_numbers_that_they_had_and_never_taken_from_anybody() {
    let dir = tempfile::tempdir().unwrap();
    let slots = Slots::at(dir.path());
    let (a, b) = (instance("aaaaaa"), instance("bbbbbb"));
    slots.claim(&a, &sandbox(1), small()).unwrap();
    let second = slots.claim(&a, &sandbox(2), small()).unwrap();
    slots.claim_again(&a, &sandbox(2), small(), second).unwrap();
    std::fs::remove_dir_all(dir.path().join("slots")).unwrap();
    slots.claim_again(&a, &sandbox(2), small(), second).unwrap();
    assert_eq!(slots.of_instance(&a).unwrap(), [(second, sandbox(2))]);
    // The other one's claim is gone, and somebody was quicker.
    assert_eq!(slots.claim(&b, &sandbox(7), small()).unwrap(), Slot(0));
    let taken = slots.claim_again(&a, &sandbox(1), small(), Slot(0)).unwrap_err();
    assert!(matches!(&taken, NetError::SlotTaken { slot: 0, instance, .. } if *instance == b), "{taken:?}");
    assert_eq!(slots.of_instance(&b).unwrap(), [(Slot(0), sandbox(7))], "it keeps it");
    assert_eq!(Slot::of_uid(second.uid()), Some(second));
    assert_eq!((Slot::of_uid(1000), Slot::of_uid(Slot(SLOTS).uid())), (None, None));
}

#[test]
fn a_claim_that_a_crash_cut_short_is_free() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("slots")).unwrap();
    std::fs::write(dir.path().join("slots/0"), b"{\"inst").unwrap();
    assert_eq!(Slots::at(dir.path()).claim(&instance("aaaaaa"), &sandbox(1), small()).unwrap(), Slot(0));
}

#[test]
fn claims_from_many_threads_are_distinct() {
    let dir = tempfile::tempdir().unwrap();
    let claim = |n: u8| Slots::at(dir.path()).claim(&instance("aaaaaa"), &sandbox(n), small()).unwrap();
    let all: HashSet<Slot> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..32).map(|n| scope.spawn(move || claim(n))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(all.len(), 32);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Two instances claim and give back in any order: a number has one owner, who keeps it until it is given back.
    #[test]
    fn numbers_are_reused_only_after_their_release(acts in prop::collection::vec((any::<bool>(), 0..2_usize, 0..12_u8), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let slots = Slots::at(dir.path());
        let instances = [instance("aaaaaa"), instance("bbbbbb")];
        let mut owned = HashMap::new();
        for (claims, who, n) in acts {
            if claims {
                let slot = slots.claim(&instances[who], &sandbox(n), small()).unwrap();
                let others = owned.iter().any(|(owner, taken)| *taken == slot && *owner != (who, n));
                prop_assert!(!others, "{slot:?} has two owners");
                if let Some(before) = owned.insert((who, n), slot) {
                    prop_assert_eq!(before, slot);
                }
            } else {
                slots.release(&instances[who], &sandbox(n)).unwrap();
                owned.remove(&(who, n));
            }
            for (who, instance) in instances.iter().enumerate() {
                let kept = slots.of_instance(instance).unwrap().len();
                prop_assert_eq!(kept, owned.keys().filter(|(owner, _)| *owner == who).count());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn thirty_thousand_plans_share_nothing(start in 0..SLOTS - 30_000) {
        let config = NetConfig { instance: instance("0a1b2c"), pool: Pool::parse("10.213.0.0/16").unwrap() };
        let (mut names, mut addresses, mut uids) = (HashSet::new(), HashSet::new(), HashSet::new());
        for n in start..start + 30_000 {
            let plan = plan(&config, Slot(n), Network::Internet);
            prop_assert!(plan.interface.len() <= 15, "{}", plan.interface);
            prop_assert!(plan.netns_address.octets()[..2] == [10, 213]);
            prop_assert!(names.insert(plan.interface) && names.insert(plan.netns));
            prop_assert!(addresses.insert(plan.host_address) && addresses.insert(plan.netns_address));
            prop_assert!(uids.insert(plan.uid) && plan.uid >= 1_000_000);
        }
    }
}
