//! Any order of events ends well: each resource is released once, nothing is done afterwards, every waiter is told.

use atoll_domain::actor::{BOOT_TRIES, Effect, Event, State, begin, step};
use proptest::prelude::*;

/// A world that answers effects with events, as the actor's work does, in an order that chance decides.
#[derive(Default)]
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
}

impl World {
    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Prepare | Effect::Boot(_) | Effect::Release => {
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
        }
    }

    /// The event in which the work under way ends.
    fn finish(&mut self, well: bool) -> Option<Event> {
        Some(match (self.work.take()?, well) {
            (Effect::Prepare, true) => Event::Prepared,
            (Effect::Boot(_), true) => Event::Booted,
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
}

fn chances() -> impl Strategy<Value = Vec<Chance>> {
    let one = prop_oneof![
        4 => any::<bool>().prop_map(Chance::Finish),
        1 => Just(Chance::Destroy),
        1 => Just(Chance::Ended),
    ];
    proptest::collection::vec(one, 0..40)
}

proptest! {
    #[test]
    fn every_order_of_events_ends_with_nothing_left(chances in chances()) {
        let (mut state, effects) = begin();
        let mut world = World::default();
        effects.into_iter().for_each(|effect| world.carry_out(effect));
        // After the chances: a destroy, and everything goes well.
        let end = [Chance::Destroy, Chance::Finish(true), Chance::Finish(true), Chance::Destroy, Chance::Finish(true)];
        for chance in chances.into_iter().chain(end) {
            let event = match chance {
                Chance::Finish(well) => world.finish(well),
                Chance::Destroy => Some(Event::Destroy),
                Chance::Ended => world.running.then_some(Event::Ended),
            };
            let Some(event) = event else { continue };
            let was = state;
            let (next, effects) = step(state, event);
            if was == State::Gone {
                prop_assert_eq!(&effects, &vec![Effect::DestroyDone], "only an answer after the end");
            }
            state = next;
            effects.into_iter().for_each(|effect| world.carry_out(effect));
        }
        prop_assert_eq!(state, State::Gone);
        prop_assert!(world.work.is_none());
        prop_assert!(world.releases >= 1 && world.boots <= BOOT_TRIES);
        prop_assert!(world.create_told && world.destroy_told >= 1);
        prop_assert!(world.created <= 1 && world.ends <= 1);
    }
}

#[test]
fn a_destroy_during_a_boot_waits_for_the_work_to_end() {
    let (state, effects) = step(State::Booting(1), Event::Destroy);
    assert_eq!((state, effects), (State::Cancelling, vec![Effect::Cancel]));
    assert_eq!(step(state, Event::Booted), (State::Releasing, vec![Effect::Release]));
}
