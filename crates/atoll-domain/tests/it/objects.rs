//! Whatever happens in whatever order, and wherever the journal is cut: nothing that anybody rests on is removed, and nothing that
//! nobody rests on stays.

use std::collections::{BTreeMap, BTreeSet};

use atoll_domain::objects::{Entry, Holder, Ledger, ObjectId, ReferenceError};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Act {
    Make(u8, u8),
    Hold(u8, u8),
    Release(u8),
    Remove,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let one = prop_oneof![
        (0..6u8, 0..5u8).prop_map(|(o, h)| Act::Make(o, h)),
        (0..6u8, 0..5u8).prop_map(|(o, h)| Act::Hold(o, h)),
        (0..5u8).prop_map(Act::Release),
        Just(Act::Remove),
    ];
    proptest::collection::vec(one, 0..60)
}

fn object(n: u8) -> ObjectId {
    ObjectId(format!("o{n}"))
}

fn holder(n: u8) -> Holder {
    Holder::Template { id: n.to_string() }
}

/// What is on disk: the journal and the files, with each change in the order in which it would get there.
#[derive(Default)]
struct Disk {
    journal: Vec<Entry>,
    files: BTreeSet<ObjectId>,
    /// Journal length at which each file was made or removed.
    states: Vec<(usize, BTreeSet<ObjectId>)>,
}

impl Disk {
    fn write(&mut self, ledger: &mut Ledger, entry: Entry) {
        self.journal.push(entry.clone());
        ledger.apply(entry);
        self.states.push((self.journal.len(), self.files.clone()));
    }

    fn change(&mut self, change: impl FnOnce(&mut BTreeSet<ObjectId>)) {
        change(&mut self.files);
        self.states.push((self.journal.len(), self.files.clone()));
    }
}

proptest! {
    #[test]
    fn no_crash_strands_a_holder_or_leaves_a_file(acts in acts(), live in proptest::collection::btree_set(0..5u8, 0..5)) {
        let (mut ledger, mut disk) = (Ledger::default(), Disk::default());
        let mut held: BTreeMap<ObjectId, BTreeSet<Holder>> = BTreeMap::new();
        for act in acts {
            match act {
                Act::Make(o, h) => {
                    let was = ledger.holders(&object(o)).is_empty() && !ledger.doomed().contains(&object(o));
                    match ledger.make(&object(o), holder(h)) {
                        Ok(entry) => {
                            prop_assert!(was);
                            disk.write(&mut ledger, entry);
                            disk.change(|files| { files.insert(object(o)); });
                            held.entry(object(o)).or_default().insert(holder(h));
                        }
                        Err(error) => prop_assert_eq!(error, ReferenceError::There(object(o).0)),
                    }
                }
                Act::Hold(o, h) => match ledger.hold(&object(o), holder(h)) {
                    Ok(entry) => {
                        disk.write(&mut ledger, entry);
                        held.entry(object(o)).or_default().insert(holder(h));
                    }
                    Err(_) => prop_assert!(!ledger.has(&object(o))),
                },
                Act::Release(h) => {
                    for entry in ledger.release(&holder(h)) {
                        disk.write(&mut ledger, entry);
                    }
                    // The last one's reference stays until the files are gone.
                    let lasts = |id: &ObjectId| ledger.doomed().contains(id);
                    held.iter_mut().filter(|(id, _)| !lasts(id)).for_each(|(_, holders)| { holders.remove(&holder(h)); });
                }
                Act::Remove => for doomed in ledger.doomed() {
                    disk.change(|files| { files.remove(&doomed); });
                    for entry in ledger.gone(&doomed) {
                        disk.write(&mut ledger, entry);
                    }
                    held.remove(&doomed);
                },
            }
            for (id, holders) in &held {
                prop_assert_eq!(&ledger.holders(id).into_iter().collect::<BTreeSet<_>>(), holders);
                prop_assert!(holders.is_empty() || disk.files.contains(id), "somebody rests on {:?}", id);
                prop_assert!(ledger.has(id) != ledger.doomed().contains(id) || holders.is_empty());
                prop_assert!(ledger.has(id) || holders.len() <= 1, "more than the last one held {:?}", id);
            }
        }
        prop_assert_eq!(Ledger::read(ledger.journal()), ledger.clone(), "a rewrite says the same");
        // A crash at any moment; then a start that knows who lives.
        let lives = |holder: &Holder| matches!(holder, Holder::Template { id } if live.contains(&id.parse().unwrap()));
        for (length, files) in &disk.states {
            let mut again = Ledger::read(disk.journal[..*length].iter().cloned());
            for entry in again.settle(lives) {
                again.apply(entry);
            }
            let mut files = files.clone();
            for doomed in again.doomed() {
                files.remove(&doomed);
                again.apply(Entry::Gone { object: doomed });
            }
            for file in &files {
                prop_assert!(again.holders(file).iter().any(lives), "{:?} stays for nobody", file);
            }
            for n in 0..6 {
                let then = Ledger::read(disk.journal[..*length].iter().cloned());
                // What is doomed is let go of, and is only still to be removed.
                let live_holders = if then.has(&object(n)) { then.holders(&object(n)) } else { Vec::new() };
                let announced = disk.journal[..*length].last().is_some_and(|e| matches!(e, Entry::Made { object: o, .. } if *o == object(n)));
                if live_holders.iter().any(lives) && !announced {
                    prop_assert!(files.contains(&object(n)), "the files of {} are gone under a holder", n);
                }
            }
            prop_assert!(again.settle(lives).is_empty(), "a second start finds nothing to do");
        }
    }
}
