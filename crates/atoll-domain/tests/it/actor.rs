//! Any order of events ends well: each resource is released once, nothing is done afterwards, every waiter is told.

use atoll_domain::actor::{BOOT_TRIES, Effect, Event, Origin, State, begin, step};
use proptest::prelude::*;

/// A world that answers effects with events, as the actor's work does, in an order that chance decides.
struct World {
    /// The work under way, if any.
    work: Option<Effect>,
    cancelled: bool,
    /// A VM that runs, or could go on.
    vm: bool,
    /// A generation from which it can be resumed.
    kept: bool,
    boots: u8,
    releases: u32,
    created: u32,
    create_told: bool,
    destroy_told: u32,
    ends: u32,
    left: bool,
    /// Who asked for a pause, a resume or a copy and was not told yet.
    waiting: u32,
    refused: u32,
    adopt_fails_with: Event,
}

impl World {
    fn new(origin: Origin, adopt_fails_with: Event) -> Self {
        Self {
            work: None,
            cancelled: false,
            vm: origin == Origin::Running,
            kept: origin == Origin::Paused,
            boots: 0,
            releases: 0,
            created: 0,
            create_told: false,
            destroy_told: 0,
            ends: 0,
            left: false,
            waiting: 0,
            refused: 0,
            adopt_fails_with,
        }
    }

    fn begin(&mut self, effect: Effect) {
        assert!(self.work.is_none(), "two works at once: {effect:?}");
        assert!(effect != Effect::BeginResume || self.kept, "a resume of nothing");
        assert!(effect != Effect::BeginPause || self.vm, "a pause of nothing");
        assert!(effect != Effect::Settle || self.kept, "a VM is ended before its generation is kept");
        self.work = Some(effect);
        self.cancelled = false;
        self.boots += u8::from(matches!(effect, Effect::Boot(_)));
        if effect == Effect::Release {
            self.releases += 1;
            (self.vm, self.kept) = (false, false);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Prepare
            | Effect::Boot(_)
            | Effect::Adopt
            | Effect::BeginPause
            | Effect::Settle
            | Effect::BeginResume
            | Effect::BeginCopy
            | Effect::Release => self.begin(effect),
            Effect::Cancel => {
                assert!(self.work.is_some(), "nothing to cancel");
                self.cancelled = true;
            }
            Effect::CreateDone => {
                self.created += 1;
                self.create_told = true;
            }
            Effect::CreateFailed => self.create_told = true,
            Effect::DestroyDone => self.destroy_told += 1,
            Effect::DestroyFailed => {}
            Effect::NoteEnd => self.ends += 1,
            Effect::Join => self.waiting += 1,
            Effect::Refuse => self.refused += 1,
            Effect::TellPaused
            | Effect::TellPauseFailed
            | Effect::TellResumed
            | Effect::TellResumeFailed
            | Effect::TellCopied => self.waiting = 0,
            Effect::LetGo => {
                assert!(matches!(self.work, None | Some(Effect::Adopt)), "left half made: {:?}", self.work);
                self.work = None;
                self.left = true;
            }
        }
    }

    /// The event in which the work under way ends.
    fn finish(&mut self, well: bool) -> Option<Event> {
        let work = self.work.take()?;
        let well = well && !self.cancelled;
        Some(match (work, well) {
            (Effect::Prepare, true) => Event::Prepared,
            (Effect::Boot(_), true) => {
                self.vm = true;
                Event::Booted
            }
            (Effect::Adopt, true) if self.vm => Event::Adopted,
            (Effect::Adopt, _) => {
                self.kept |= self.adopt_fails_with == Event::FellBack;
                self.adopt_fails_with
            }
            (Effect::BeginPause | Effect::BeginCopy, _) if !self.vm && !self.kept => Event::Ended,
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
                (self.vm, self.kept) = (true, false);
                Event::Resumed
            }
            (Effect::BeginResume, false) => Event::ResumeFailed,
            (Effect::BeginCopy, _) => Event::CopyEnded,
            (Effect::Release, true) => Event::Released,
            (Effect::Release, false) => Event::ReleaseFailed,
            _ => Event::WorkFailed,
        })
    }
}

#[derive(Debug, Clone, Copy)]
enum Chance {
    Finish(bool),
    /// A call of somebody.
    Call(Event),
    /// The VM dies by itself.
    Dies,
    Leave,
}

fn chances() -> impl Strategy<Value = Vec<Chance>> {
    let one = prop_oneof![
        8 => any::<bool>().prop_map(Chance::Finish),
        3 => Just(Chance::Call(Event::Pause)),
        3 => Just(Chance::Call(Event::Resume)),
        2 => Just(Chance::Call(Event::Copy)),
        1 => Just(Chance::Call(Event::Destroy)),
        1 => Just(Chance::Dies),
    ];
    proptest::collection::vec(one, 0..60)
}

fn origins() -> impl Strategy<Value = Origin> {
    prop_oneof![
        Just(Origin::New),
        Just(Origin::Running),
        Just(Origin::Paused),
        Just(Origin::Remains),
        Just(Origin::Foreign)
    ]
}

fn failures() -> impl Strategy<Value = Event> {
    prop_oneof![Just(Event::Ended), Just(Event::TooNew), Just(Event::WorkFailed), Just(Event::FellBack)]
}

/// The end of a VM is an event of its own only while nothing is being done to it.
fn dies(world: &mut World, state: State) -> Option<Event> {
    let was = std::mem::replace(&mut world.vm, false);
    (was && state == State::Running).then_some(Event::Ended)
}

/// Feeds chances until they are used up or the actor is at its end.
fn live(
    world: &mut World,
    mut state: State,
    chances: impl IntoIterator<Item = Chance>,
) -> Result<State, TestCaseError> {
    for chance in chances {
        let event = match chance {
            Chance::Finish(well) => world.finish(well),
            Chance::Call(event) => Some(event),
            Chance::Dies => dies(world, state),
            Chance::Leave => Some(Event::Leave),
        };
        let Some(event) = event else { continue };
        let was = state;
        let (next, effects) = step(state, event);
        let asked = matches!(event, Event::Pause | Event::Resume | Event::Copy);
        let answers = effects.iter().filter(|e| matches!(e, Effect::Join | Effect::Refuse)).count();
        prop_assert_eq!(answers, usize::from(asked), "an asker is joined or refused, once: {:?} {:?}", was, event);
        if was == State::Gone && !asked {
            prop_assert!(effects.iter().all(|effect| *effect == Effect::DestroyDone), "only an answer after the end");
        }
        state = next;
        effects.into_iter().for_each(|effect| world.carry_out(effect));
        prop_assert!(state != State::Paused || world.kept, "paused with nothing kept");
        prop_assert!(world.waiting == 0 || world.work.is_some(), "somebody waits for nothing: {:?} {:?}", was, event);
        prop_assert!(world.work.is_some() || !state.holds_back_a_leave(), "waits for no work in {:?}", state);
        if state == State::Left {
            break;
        }
    }
    Ok(state)
}

proptest! {
    #[test]
    fn every_order_of_events_ends_with_nothing_left(
        origin in origins(),
        failure in failures(),
        chances in chances(),
    ) {
        let (state, effects) = begin(origin);
        let mut world = World::new(origin, failure);
        effects.into_iter().for_each(|effect| world.carry_out(effect));
        // After the chances: a destroy, and everything goes well.
        let destroy = Chance::Call(Event::Destroy);
        let end = [destroy, Chance::Finish(true), Chance::Finish(true), destroy, Chance::Finish(true)];
        let state = live(&mut world, state, chances.into_iter().chain(end))?;
        prop_assert_eq!(state, State::Gone);
        prop_assert!(world.work.is_none());
        prop_assert!(world.releases >= 1 && world.boots <= BOOT_TRIES);
        prop_assert!(world.create_told && world.destroy_told >= 1);
        prop_assert!(world.created <= 1 && world.ends <= 1 && world.waiting == 0);
    }

    #[test]
    fn a_leave_at_any_moment_ends_the_actor_and_leaves_nothing_half_made(
        origin in origins(),
        failure in failures(),
        chances in chances(),
        well in any::<bool>(),
    ) {
        let (state, effects) = begin(origin);
        let mut world = World::new(origin, failure);
        effects.into_iter().for_each(|effect| world.carry_out(effect));
        let state = live(&mut world, state, chances)?;
        let (stays, releases) = (matches!(state, State::Running | State::Paused), world.releases);
        // The wish to leave stays until it is met.
        let end = [Chance::Leave, Chance::Finish(well), Chance::Leave, Chance::Finish(well), Chance::Leave];
        let state = live(&mut world, state, end)?;
        prop_assert!(state.is_final(), "{:?}", state);
        prop_assert!(world.work.is_none());
        if stays {
            prop_assert!(world.left && world.releases == releases, "what runs or is paused goes on");
        }
    }
}

#[test]
fn what_has_ended_is_told_once_and_what_may_live_is_left_running() {
    let (state, effects) = step(State::Adopting, Event::Ended);
    assert_eq!((state, effects), (State::Releasing, vec![Effect::NoteEnd, Effect::Release]));
    for event in [Event::TooNew, Event::WorkFailed] {
        assert_eq!(step(State::Adopting, event), (State::Refused, vec![]));
    }
    assert_eq!(begin(Origin::Foreign), (State::Refused, vec![]));
}

#[test]
fn a_resume_that_failed_while_no_atoll_ran_leaves_it_paused() {
    let (state, effects) = step(State::Adopting, Event::FellBack);
    assert_eq!((state, effects), (State::Settling, vec![Effect::CreateDone, Effect::Settle]));
    assert_eq!(step(state, Event::Settled), (State::Paused, vec![Effect::TellPaused]));
}

#[test]
fn a_destroy_during_a_boot_waits_for_the_work_to_end() {
    let (state, effects) = step(State::Booting(1), Event::Destroy);
    assert_eq!((state, effects), (State::Cancelling, vec![Effect::Cancel]));
    assert_eq!(step(state, Event::Booted), (State::Releasing, vec![Effect::Release]));
}

#[test]
fn the_opposite_is_refused_with_the_state_and_the_same_joins() {
    for (state, joins, refuses) in [
        (State::Pausing, Event::Pause, Event::Resume),
        (State::Settling, Event::Pause, Event::Resume),
        (State::Resuming, Event::Resume, Event::Pause),
    ] {
        assert_eq!(step(state, joins), (state, vec![Effect::Join]));
        assert_eq!(step(state, refuses), (state, vec![Effect::Refuse]));
    }
    assert_eq!([State::Pausing, State::Paused, State::Resuming].map(State::as_str), ["pausing", "paused", "resuming"]);
}

#[test]
fn a_failed_pause_runs_on_and_a_failed_resume_stays_paused() {
    assert_eq!(step(State::Pausing, Event::PauseFailed), (State::Running, vec![Effect::TellPauseFailed]));
    assert_eq!(step(State::Resuming, Event::ResumeFailed), (State::Paused, vec![Effect::TellResumeFailed]));
}
