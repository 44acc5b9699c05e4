//! A use moves the idle limit and nothing else; a wall clock that is set changes nothing; the earliest limit counts.

use atoll_domain::ttl::{Cause, Lifetime, LifetimeChange, Now, OnExpiry, Timer};
use proptest::prelude::*;

const WALL: i64 = 1_800_000_000_000_000;

fn now(steady: u64) -> Now {
    Now { wall: WALL + i64::try_from(steady).unwrap() * 1000, steady }
}

fn lifetimes() -> impl Strategy<Value = Lifetime> {
    (0..100u32, proptest::option::of(1..200i64), any::<bool>(), 0..100u32).prop_map(|(idle, end, destroy, max)| {
        Lifetime {
            timeout_sec: idle,
            end_at: end.map(|s| WALL + s * 1_000_000),
            on_expiry: if destroy { OnExpiry::Destroy } else { OnExpiry::Pause },
            auto_resume: false,
            max_lifetime_sec: max,
        }
    })
}

proptest! {
    #[test]
    fn the_earliest_limit_counts_and_a_use_moves_idle_alone(
        lifetime in lifetimes(), uses in proptest::collection::vec(0..200_000u64, 0..20),
    ) {
        let mut timer = Timer::begin(lifetime, now(0));
        uses.iter().for_each(|at| timer.used(*at));
        let last = uses.iter().max().copied().unwrap_or(0);
        let idle = (lifetime.timeout_sec > 0).then(|| last + u64::from(lifetime.timeout_sec) * 1000);
        let longest = (lifetime.max_lifetime_sec > 0).then(|| u64::from(lifetime.max_lifetime_sec) * 1000);
        let end = lifetime.end_at.map(|at| u64::try_from((at - WALL) / 1000).unwrap());
        let earliest = [idle, longest, end].into_iter().flatten().min();
        prop_assert_eq!(timer.due().map(|due| due.at), earliest);
        if let Some(at) = earliest {
            prop_assert!(timer.expired(at).is_some());
            prop_assert!(at == 0 || timer.expired(at - 1).is_none());
        } else {
            prop_assert_eq!(timer.expired(u64::MAX), None);
        }
    }

    #[test]
    fn a_wall_clock_that_is_set_changes_no_limit(lifetime in lifetimes(), jump in -1_000_000_000_000i64..1_000_000_000_000, idle in 0..100i64) {
        let mut timer = Timer::begin(lifetime, now(0));
        let before = timer.due();
        let jumped = Now { wall: WALL + jump, steady: 0 };
        timer.set(lifetime, jumped);
        prop_assert_eq!(timer.due(), before);
        // A change of something else leaves the deadline where it was set.
        let change = LifetimeChange { timeout_sec: Some(idle), ..LifetimeChange::default() };
        let changed = lifetime.changed(&change, jumped.wall).unwrap();
        timer.set(Lifetime { max_lifetime_sec: 0, ..changed }, jumped);
        if let (Some(end), 0) = (lifetime.end_at, idle) {
            let at = u64::try_from((end - WALL) / 1000).unwrap();
            prop_assert_eq!(timer.due().map(|due| (due.at, due.cause)), Some((at, Cause::Deadline)));
        }
    }

    #[test]
    fn a_restart_of_the_host_agent_changes_no_limit(lifetime in lifetimes(), used in 0..50_000u64, away in 50_000..100_000u64) {
        let mut timer = Timer::begin(lifetime, now(1_000_000));
        timer.used(1_000_000 + used);
        let back = Timer::go_on(lifetime, 1_000_000, 1_000_000 + used, now(1_000_000 + away));
        prop_assert_eq!(back.due(), timer.due());
        // The wall clock was set meanwhile: only a limit that is a date has another moment.
        let jumped = Now { wall: now(1_000_000 + away).wall + 7_200_000_000, steady: 1_000_000 + away };
        let dateless = Lifetime { end_at: None, ..lifetime };
        let back = Timer::go_on(dateless, 1_000_000, 1_000_000 + used, jumped);
        let mut timer = Timer::begin(dateless, now(1_000_000));
        timer.used(1_000_000 + used);
        prop_assert_eq!(back.due(), timer.due());
    }
}

#[test]
fn changes_are_checked_and_what_is_absent_stays() {
    let before = Lifetime { timeout_sec: 60, auto_resume: true, ..Lifetime::default() };
    let change = LifetimeChange { end_at: Some(Some(WALL + 1)), ..LifetimeChange::default() };
    let after = before.changed(&change, WALL).unwrap();
    assert_eq!(after, Lifetime { end_at: Some(WALL + 1), ..before });
    let clear = LifetimeChange { end_at: Some(None), on_expiry: Some(OnExpiry::Destroy), ..LifetimeChange::default() };
    assert_eq!(after.changed(&clear, WALL).unwrap(), Lifetime { on_expiry: OnExpiry::Destroy, ..before });
    for (field, change) in [
        ("end_at", LifetimeChange { end_at: Some(Some(WALL)), ..LifetimeChange::default() }),
        ("end_at", LifetimeChange { end_at: Some(Some(i64::MAX)), ..LifetimeChange::default() }),
        ("timeout_sec", LifetimeChange { timeout_sec: Some(-1), ..LifetimeChange::default() }),
        ("max_lifetime_sec", LifetimeChange { max_lifetime_sec: Some(i64::MAX), ..LifetimeChange::default() }),
    ] {
        assert_eq!(before.changed(&change, WALL).unwrap_err().field, field);
    }
}

#[test]
fn a_moment_that_has_not_come_is_now() {
    let lifetime = Lifetime { timeout_sec: 10, ..Lifetime::default() };
    // What no Atoll of this boot can have written.
    let timer = Timer::go_on(lifetime, 3_600_000, 3_600_000, now(0));
    assert_eq!(timer.due().unwrap().at, 10_000);
}
