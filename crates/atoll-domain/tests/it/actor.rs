//! Any order of events ends well: each resource is released once, nothing is done afterwards, every waiter is told.

use atoll_domain::actor::{BOOT_TRIES, Effect, Event, Origin, State, begin, step};
use proptest::prelude::*;

/// A world that answers effects with events, as the actor's work does, in an order that chance decides.
struct World {
    /// The work under way, if any.
    work: Option<Effect>,
    running: bool,
    boots: u8,
    releases: u32,
    created: u32,
    create_told: bool,
    destroy_told: u32,
    ends: u32,
    left: bool,
    adopt_fails_with: Event,
}

impl World {
    fn new(adopt_fails_with: Event) -> Self {
        Self {
            work: None,
            running: false,
            boots: 0,
            releases: 0,
            created: 0,
            create_told: false,
            destroy_told: 0,
            ends: 0,
            left: false,
            adopt_fails_with,
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Prepare | Effect::Boot(_) | Effect::Adopt | Effect::Release => {
                assert!(self.work.is_none(), "two works at once: {effect:?}");
                self.work = Some(effect);
                self.boots += u8::from(matches!(effect, Effect::Boot(_)));
                if effect == Effect::Release {
                    self.releases += 1;
                    self.running = false;
                }
            }
            Effect::Cancel => assert!(self.work.is_some(), "nothing to cancel"),
            Effect::CreateDone => {
                self.created += 1;
                self.create_told = true;
                self.running = true;
            }
            Effect::CreateFailed => self.create_told = true,
            Effect::DestroyDone => self.destroy_told += 1,
            Effect::DestroyFailed => {}
            Effect::NoteEnd => self.ends += 1,
            Effect::LetGo => {
                assert!(
                    !matches!(self.work, Some(Effect::Prepare | Effect::Boot(_) | Effect::Release)),
                    "left half made"
                );
                self.work = None;
                self.left = true;
            }
        }
    }

    /// The event in which the work under way ends.
    fn finish(&mut self, well: bool) -> Option<Event> {
        Some(match (self.work.take()?, well) {
            (Effect::Prepare, true) => Event::Prepared,
            (Effect::Boot(_), true) => Event::Booted,
            (Effect::Adopt, true) => Event::Adopted,
            (Effect::Adopt, false) => self.adopt_fails_with,
            (Effect::Release, true) => Event::Released,
            (Effect::Release, false) => Event::ReleaseFailed,
            _ => Event::WorkFailed,
        })
    }
}

#[derive(Debug, Clone, Copy)]
enum Chance {
    Finish(bool),
    Destroy,
    Ended,
    Leave,
}

fn chances() -> impl Strategy<Value = Vec<Chance>> {
    let one = prop_oneof![
        4 => any::<bool>().prop_map(Chance::Finish),
        1 => Just(Chance::Destroy),
        1 => Just(Chance::Ended),
    ];
    proptest::collection::vec(one, 0..40)
}

fn origins() -> impl Strategy<Value = Origin> {
    prop_oneof![Just(Origin::New), Just(Origin::Running), Just(Origin::Remains)]
}

fn failures() -> impl Strategy<Value = Event> {
    prop_oneof![Just(Event::Ended), Just(Event::TooNew), Just(Event::WorkFailed)]
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
            Chance::Destroy => Some(Event::Destroy),
            Chance::Ended => world.running.then_some(Event::Ended),
            Chance::Leave => Some(Event::Leave),
        };
        let Some(event) = event else { continue };
        let was = state;
        let (next, effects) = step(state, event);
        if was == State::Gone {
            prop_assert!(effects.iter().all(|effect| *effect == Effect::DestroyDone), "only an answer after the end");
        }
        state = next;
        effects.into_iter().for_each(|effect| world.carry_out(effect));
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
        let mut world = World::new(failure);
        effects.into_iter().for_each(|effect| world.carry_out(effect));
        // After the chances: a destroy, and everything goes well.
        let end = [Chance::Destroy, Chance::Finish(true), Chance::Finish(true), Chance::Destroy, Chance::Finish(true)];
        let state = live(&mut world, state, chances.into_iter().chain(end))?;
        prop_assert_eq!(state, State::Gone);
        prop_assert!(world.work.is_none());
        prop_assert!(world.releases >= 1 && world.boots <= BOOT_TRIES);
        prop_assert!(world.create_told && world.destroy_told >= 1);
        prop_assert!(world.created <= 1 && world.ends <= 1);
    }

    #[test]
    fn a_leave_at_any_moment_ends_the_actor_and_leaves_nothing_half_made(
        origin in origins(),
        failure in failures(),
        chances in chances(),
        well in any::<bool>(),
    ) {
        let (state, effects) = begin(origin);
        let mut world = World::new(failure);
        effects.into_iter().for_each(|effect| world.carry_out(effect));
        let state = live(&mut world, state, chances)?;
        let (running, releases) = (world.running, world.releases);
        // The wish to leave stays until it is met.
        let end = [Chance::Leave, Chance::Finish(well), Chance::Leave, Chance::Finish(well), Chance::Leave];
        let state = live(&mut world, state, end)?;
        prop_assert!(state.is_final(), "{:?}", state);
        prop_assert!(world.work.is_none());
        if running {
            prop_assert!(world.left && world.releases == releases, "what runs goes on");
        }
    }
}

#[test]
fn what_cannot_be_claimed_is_told_as_ended_once() {
    for event in [Event::Ended, Event::WorkFailed] {
        let (state, effects) = step(State::Adopting, event);
        assert_eq!((state, effects), (State::Releasing, vec![Effect::NoteEnd, Effect::Release]));
    }
    assert_eq!(step(State::Adopting, Event::TooNew), (State::Refused, vec![]), "left running");
}

#[test]
fn a_destroy_during_a_boot_waits_for_the_work_to_end() {
    let (state, effects) = step(State::Booting(1), Event::Destroy);
    assert_eq!((state, effects), (State::Cancelling, vec![Effect::Cancel]));
    assert_eq!(step(state, Event::Booted), (State::Releasing, vec![Effect::Release]));
}
