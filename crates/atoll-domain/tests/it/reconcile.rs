//! One remedy brings record and host together, and none ends what runs as it is written.

use atoll_domain::host::HostSandboxState;
use atoll_domain::reconcile::{Observed, Remedy, remedy};
use atoll_domain::{Incarnation, SandboxStatus};
use proptest::prelude::*;

type Record = Option<(SandboxStatus, Incarnation)>;

fn records() -> impl Strategy<Value = Record> {
    let status = prop_oneof![
        Just(SandboxStatus::Pending),
        Just(SandboxStatus::Running),
        Just(SandboxStatus::Paused),
        Just(SandboxStatus::Missing),
        Just(SandboxStatus::Stopped),
        Just(SandboxStatus::Error),
    ];
    proptest::option::of((status, (1u64..4).prop_map(Incarnation)))
}

fn observations() -> impl Strategy<Value = Option<Observed>> {
    let state = prop_oneof![
        Just(HostSandboxState::Starting),
        Just(HostSandboxState::Running),
        Just(HostSandboxState::Pausing),
        Just(HostSandboxState::Paused),
        Just(HostSandboxState::Resuming),
        Just(HostSandboxState::Stopping),
        Just(HostSandboxState::Stuck),
    ];
    let seen = (state, (1u64..4).prop_map(Incarnation));
    proptest::option::of(seen.prop_map(|(state, incarnation)| Observed { state, incarnation }))
}

/// What is written and what is there after a remedy.
fn apply(record: Record, observed: Option<Observed>, remedy: Remedy) -> (Record, Option<Observed>) {
    let with = |status| record.map(|(_, incarnation)| (status, incarnation));
    match remedy {
        Remedy::Nothing => (record, observed),
        Remedy::MarkRunning => (with(SandboxStatus::Running), observed),
        Remedy::MarkPaused => (observed.map(|seen| (SandboxStatus::Paused, seen.incarnation)), observed),
        Remedy::MarkResumed => (observed.map(|seen| (SandboxStatus::Running, seen.incarnation)), observed),
        Remedy::MarkStopped => (with(SandboxStatus::Stopped), observed),
        Remedy::MarkError => (with(SandboxStatus::Error), observed),
        Remedy::Destroy => (record, None),
    }
}

proptest! {
    #[test]
    fn after_at_most_two_remedies_there_is_nothing_to_do(record in records(), observed in observations()) {
        let (mut record, mut observed) = (record, observed);
        for _ in 0..2 {
            (record, observed) = apply(record, observed, remedy(record, observed));
        }
        prop_assert_eq!(remedy(record, observed), Remedy::Nothing);
    }

    #[test]
    fn what_runs_as_written_or_is_on_its_way_is_left_alone(record in records(), observed in observations()) {
        let remedy = remedy(record, observed);
        if let (Some((status, incarnation)), Some(seen)) = (record, observed) {
            let wanted = !status.is_over() && seen.incarnation >= incarnation;
            if seen.state == HostSandboxState::Stuck {
                prop_assert_eq!(remedy, Remedy::Destroy, "it could not be given back");
            } else if wanted || seen.state == HostSandboxState::Stopping {
                prop_assert_ne!(remedy, Remedy::Destroy);
            }
            prop_assert_ne!(remedy, Remedy::MarkStopped, "the host has it");
            prop_assert_ne!(remedy, Remedy::MarkError, "the host has it");
        }
    }

    #[test]
    fn what_is_paused_is_never_ended_unless_it_is_over(record in records(), observed in observations()) {
        if let (Some((status, _)), Some(seen)) = (record, observed)
            && seen.state == HostSandboxState::Paused && !status.is_over()
        {
            prop_assert_ne!(remedy(record, observed), Remedy::Destroy);
        }
    }

    #[test]
    fn a_mark_never_goes_back_to_an_older_life(record in records(), observed in observations()) {
        let marks = [Remedy::MarkRunning, Remedy::MarkPaused, Remedy::MarkResumed];
        if let (Some((_, incarnation)), Some(seen)) = (record, observed)
            && marks.contains(&remedy(record, observed))
        {
            prop_assert!(seen.incarnation >= incarnation);
        }
    }

    #[test]
    fn only_what_is_not_over_is_ever_marked(record in records(), observed in observations()) {
        let marks = [Remedy::MarkRunning, Remedy::MarkPaused, Remedy::MarkResumed, Remedy::MarkStopped, Remedy::MarkError];
        let remedy = remedy(record, observed);
        if marks.contains(&remedy) {
            let (status, _) = record.expect("what is marked has a record");
            prop_assert!(!status.is_over());
            let ends = matches!(remedy, Remedy::MarkStopped | Remedy::MarkError);
            prop_assert!(!ends || status != SandboxStatus::Paused, "what is kept on disk does not end by being unseen");
        }
    }
}
