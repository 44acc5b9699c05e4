//! When something that happened says nothing new.

use atoll_domain::Incarnation;
use atoll_domain::happening::{Happening, HappeningKind};
use proptest::prelude::*;

fn line(at: i64, kind: HappeningKind, life: u64, reason: Option<&str>) -> Happening {
    Happening { at, incarnation: Incarnation(life), kind, reason: reason.map(str::to_owned) }
}

#[test]
fn another_life_kind_or_cause_is_news() {
    use HappeningKind::{PauseFailed, ResumeFailed};
    let first = line(1, PauseFailed, 2, Some("busy"));
    assert!(line(9, PauseFailed, 2, Some("busy")).repeats(&first));
    for other in [
        line(9, ResumeFailed, 2, Some("busy")),
        line(9, PauseFailed, 3, Some("busy")),
        line(9, PauseFailed, 2, Some("damaged")),
        line(9, PauseFailed, 2, None),
    ] {
        assert!(!other.repeats(&first), "{other:?}");
    }
}

proptest! {
    #[test]
    fn how_much_is_left_is_no_other_cause(a: u64, b: u64, cut in 300_usize..600) {
        let reason = |left: u64| {
            let tail = "x".repeat(600);
            format!("disk_mb is short: 512 needed, {left} available; {tail}").chars().take(cut).collect::<String>()
        };
        let line = |left| line(1, HappeningKind::PauseFailed, 1, Some(&reason(left)));
        prop_assert!(line(a).repeats(&line(b)));
    }
}
