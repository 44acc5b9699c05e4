//! Any order of calls, ends and failures: one work at a time, everybody who asked is told once, nothing that was kept is lost.

use atoll_domain::pause::{Effect, Event, Phase, step};
use proptest::prelude::*;

#[derive(Debug, Clone, Copy)]
enum Chance {
    Call(Event),
    /// The work under way ends: well, or not.
    Finish(bool),
    /// The VM dies by itself.
    Dies,
}

#[derive(Default)]
struct World {
    work: Option<Effect>,
    cancelled: bool,
    waiting: u32,
    told: u32,
    joined: u32,
    releases: u32,
    /// A VM that runs, or could go on.
    vm: bool,
    /// A generation from which it can be resumed.
    kept: bool,
}

impl World {
    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::BeginPause | Effect::Settle | Effect::BeginResume => {
                assert!(self.work.is_none(), "two works at once: {effect:?}");
                assert!(effect != Effect::BeginResume || self.kept, "a resume of nothing");
                assert!(effect != Effect::BeginPause || self.vm, "a pause of nothing");
                assert!(effect != Effect::Settle || self.kept, "a VM is ended before its generation is kept");
                self.work = Some(effect);
                self.cancelled = false;
            }
            Effect::Cancel => {
                assert!(self.work.is_some(), "nothing to call off");
                self.cancelled = true;
            }
            Effect::Join => {
                self.waiting += 1;
                self.joined += 1;
            }
            Effect::Refuse | Effect::NoteEnd => {}
            Effect::TellPaused | Effect::TellPauseFailed | Effect::TellResumed | Effect::TellResumeFailed => {
                self.told += std::mem::take(&mut self.waiting);
            }
            Effect::Release => {
                assert!(self.work.is_none(), "a release beside other work");
                self.releases += 1;
                (self.vm, self.kept) = (false, false);
            }
        }
    }

    fn finish(&mut self, well: bool) -> Option<Event> {
        let work = self.work.take()?;
        let well = well && !self.cancelled;
        Some(match (work, well) {
            (Effect::BeginPause, _) if !self.vm => Event::Ended,
            (Effect::BeginPause, true) => {
                self.kept = true;
                Event::Committed
            }
            (Effect::BeginPause, false) => Event::PauseFailed,
            (Effect::Settle, _) => {
                self.vm = false;
                Event::Settled
            }
            (Effect::BeginResume, true) => {
                self.vm = true;
                Event::Resumed
            }
            _ => Event::ResumeFailed,
        })
    }

    /// The end of a VM is an event of its own only while nothing is being done to it.
    fn dies(&mut self, phase: Phase) -> Option<Event> {
        let was = std::mem::replace(&mut self.vm, false);
        (was && phase == Phase::Running).then_some(Event::Ended)
    }
}

fn chances() -> impl Strategy<Value = Vec<Chance>> {
    let one = prop_oneof![
        3 => Just(Chance::Call(Event::Pause)),
        3 => Just(Chance::Call(Event::Resume)),
        1 => Just(Chance::Call(Event::Destroy)),
        5 => any::<bool>().prop_map(Chance::Finish),
        1 => Just(Chance::Dies),
    ];
    proptest::collection::vec(one, 0..60)
}

proptest! {
    #[test]
    fn every_order_ends_well(chances in chances()) {
        let (mut phase, mut world) = (Phase::Running, World { vm: true, ..World::default() });
        let end = [Chance::Finish(true), Chance::Finish(true), Chance::Call(Event::Destroy), Chance::Finish(true)];
        for chance in chances.into_iter().chain(end) {
            let event = match chance {
                Chance::Call(event) => Some(event),
                Chance::Finish(well) => world.finish(well),
                Chance::Dies => world.dies(phase),
            };
            let Some(event) = event else { continue };
            let (next, effects) = step(phase, event);
            let asked = matches!(event, Event::Pause | Event::Resume);
            let answers = effects.iter().filter(|e| matches!(e, Effect::Join | Effect::Refuse)).count();
            prop_assert_eq!(answers, usize::from(asked), "an asker is joined or refused, once: {:?} {:?}", phase, event);
            phase = next;
            effects.into_iter().for_each(|effect| world.carry_out(effect));
            prop_assert!(phase != Phase::Paused || world.kept, "paused with nothing kept");
            prop_assert!(world.work.is_some() || !matches!(phase, Phase::Pausing | Phase::Settling | Phase::Resuming | Phase::Cancelling));
        }
        prop_assert_eq!(phase, Phase::Ending);
        prop_assert_eq!((world.releases, world.waiting), (1, 0));
        prop_assert_eq!(world.told, world.joined);
        prop_assert!(world.work.is_none());
    }
}

#[test]
fn the_opposite_is_refused_with_the_state_and_the_same_joins() {
    for (phase, joins, refuses) in [
        (Phase::Pausing, Event::Pause, Event::Resume),
        (Phase::Settling, Event::Pause, Event::Resume),
        (Phase::Resuming, Event::Resume, Event::Pause),
    ] {
        assert_eq!(step(phase, joins), (phase, vec![Effect::Join]));
        assert_eq!(step(phase, refuses), (phase, vec![Effect::Refuse]));
    }
    assert_eq!([Phase::Pausing, Phase::Paused, Phase::Resuming].map(Phase::as_str), ["pausing", "paused", "resuming"]);
}

#[test]
fn a_failed_pause_runs_on_and_a_failed_resume_stays_paused() {
    assert_eq!(step(Phase::Pausing, Event::PauseFailed), (Phase::Running, vec![Effect::TellPauseFailed]));
    assert_eq!(step(Phase::Resuming, Event::ResumeFailed), (Phase::Paused, vec![Effect::TellResumeFailed]));
}
