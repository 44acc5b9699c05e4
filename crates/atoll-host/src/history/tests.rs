//! Journals as crashes, older Atolls and newer ones leave them, and what is read out of them.
//!
//! How it works: lines are written as an actor writes them, or put together in memory, and asked.
//!
//! Deliberately absent: real sandboxes (`kill_matrix`).

use super::*;
use crate::journal::Journal;
use atoll_domain::host::EventSeq;
use atoll_domain::objects::ObjectId;
use atoll_domain::snapshot::{Digest, Origin};
use atoll_domain::ttl::Lifetime;
use atoll_domain::{Incarnation, OperationId, SandboxId};

fn first() -> Entry {
    crate::samples::create(&SandboxId::from_random([2; 16]))
}

fn kept(at: u64) -> Kept {
    let digest = |n| Digest([n; 32]);
    let origin = Origin { kernel: digest(1), base: digest(2), agent: digest(3), agent_version: "0".into() };
    let (image, kernel, initrd) = ("/i".into(), "/k".into(), "/n".into());
    let sources = Sources { image, kernel, initrd, base: Base::Empty, origin };
    let at = i64::try_from(at).unwrap();
    let paused = Paused { at, generation: Some("g".into()), quiesced: true, bytes: 2, memory_lost: false };
    Kept { paused, sources, diff: true, by_host: false, cause: None }
}

fn boot(attempt: u8) -> Entry {
    Entry::Boot { attempt, sources: None, platform: None }
}

fn running() -> Entry {
    Entry::Running(Processes {
        keeper_pid: 1,
        vmm_pid: 2,
        vmm_start: 3,
        keeper_start: 4,
        boot_id: boot_id(),
        at: 5,
        steady: None,
    })
}

#[test]
fn a_line_that_a_crash_cut_short_spoils_no_later_one() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("sb");
    Journal::create(&dir, &first()).unwrap();
    let path = crate::journal::path(&dir);
    let whole = std::fs::read(&path).unwrap().len();
    Journal::open(&dir).unwrap().write(&running()).unwrap();
    let text = std::fs::read(&path).unwrap();
    for cut in whole..text.len() {
        std::fs::write(&path, &text[..cut]).unwrap();
        Journal::mend(&dir).unwrap();
        Journal::open(&dir).unwrap().write(&boot(7)).unwrap();
        let history = History::read(&dir).unwrap();
        assert!(!history.foreign && history.running().is_none(), "cut at {cut}");
        let lines = std::fs::read(&path).unwrap();
        assert!(lines[..whole] == text[..whole] && lines[whole..].starts_with(b"{\"step\":\"boot\""), "cut at {cut}");
    }
}

#[test]
fn there_are_blocks_for_more_lines_however_long_a_journal_is() {
    use std::os::unix::fs::MetadataExt as _;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("sb");
    let journal = Journal::create(&dir, &first()).unwrap();
    for _ in 0..400 {
        journal.write(&running()).unwrap();
        let file = std::fs::metadata(crate::journal::path(&dir)).unwrap();
        assert!(file.blocks() * 512 >= file.len() + 4096, "{} bytes in {} blocks", file.len(), file.blocks());
    }
}

#[test]
fn a_boot_that_did_not_come_far_hides_an_earlier_one() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("s");
    let journal = Journal::create(&dir, &first()).unwrap();
    for (entry, runs) in [(boot(1), false), (running(), true), (boot(2), false)] {
        journal.write(&entry).unwrap();
        let history = History::read(&dir).unwrap();
        assert_eq!(history.traces().running, runs);
        assert!(history.traces().created && !history.traces().foreign);
    }
    journal.write(&running()).unwrap();
    assert!(History::read(&dir).unwrap().traces().this_boot);
}

#[test]
fn a_line_cut_short_is_nothing_and_an_unknown_one_is_foreign() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("s");
    Journal::create(&dir, &first()).unwrap();
    let text = fs::read(path(&dir)).unwrap();
    for cut in 0..text.len() {
        let history = History::parse(&text[..cut]);
        assert!(history.entries.is_empty() && !history.foreign, "{cut}");
    }
    let newer = [text.as_slice(), b"{\"step\":\"levitating\"}\n"].concat();
    assert!(History::parse(&newer).foreign);
    assert!(!History::parse(&newer[..newer.len() - 1]).foreign, "not written to its end");
}

#[test]
fn a_long_journal_is_written_anew_and_says_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("s");
    let journal = Journal::create(&dir, &first()).unwrap();
    let call = |life| Call { operation: OperationId::from_random([9; 16]), incarnation: Incarnation(life) };
    for life in 2..300 {
        let resuming = Entry::Resuming { call: call(life) };
        let repaired = Entry::Repaired { protocol: None };
        for entry in [Entry::Paused(Box::new(kept(life))), resuming, boot(1), running(), repaired] {
            journal.write(&entry).unwrap();
        }
    }
    let lifetime = Lifetime { timeout_sec: 7, ..Lifetime::default() };
    let limits = Limits { lifetime, revision: 3 };
    journal.write(&Entry::Lifetime(limits)).unwrap();
    journal.write(&Entry::Paused(Box::new(kept(300)))).unwrap();
    let before = History::read(&dir).unwrap();
    Journal::compact(&dir).unwrap();
    let after = History::read(&dir).unwrap();
    assert!(after.entries.len() < 4 && before.entries.len() > 1000);
    assert_eq!((after.call(), after.paused(), after.limits()), (before.call(), before.paused(), Some(limits)));
    assert_eq!(after.traces(), Traces { running: false, this_boot: false, ..before.traces() });
    Journal::open(&dir).unwrap().write(&Entry::MemoryLost).unwrap();
    assert_eq!(History::read(&dir).unwrap().paused().unwrap().paused.generation, None, "it goes on");
}

#[test]
fn limits_that_change_while_a_journal_is_written_anew_are_kept() {
    use std::io::Write as _;
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("s");
    let journal = Journal::create(&dir, &first()).unwrap();
    journal.write(&Entry::Paused(Box::new(kept(1)))).unwrap();
    let filler = "{\"step\":\"repaired\",\"protocol\":null}\n".repeat(2000);
    for revision in 1..30 {
        let mut file = fs::OpenOptions::new().append(true).open(path(&dir)).unwrap();
        file.write_all(filler.as_bytes()).unwrap();
        let (go, limits) = (std::sync::Barrier::new(2), Limits { revision, ..Limits::default() });
        std::thread::scope(|scope| {
            scope.spawn(|| {
                go.wait();
                journal.write(&Entry::Lifetime(limits)).unwrap();
            });
            go.wait();
            Journal::compact(&dir).unwrap();
        });
        assert_eq!(History::read(&dir).unwrap().limits(), Some(limits));
    }
    assert!(History::read(&dir).unwrap().entries.len() < 10, "it was written anew each time");
}

#[test]
fn what_was_not_written_to_its_end_is_cleared_before_anything_is_written() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("s");
    Journal::create(&dir, &first()).unwrap();
    for name in ["journal.tmp", "used.tmp", "used"] {
        fs::write(dir.join(name), "half").unwrap();
    }
    Journal::mend(&dir).unwrap();
    let mut left: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["journal", "used"]);
}

#[test]
fn limits_that_were_written_before_changes_had_numbers_are_older_than_any_change() {
    let line = br#"{"step":"lifetime","timeout_sec":9,"end_at":null,"on_expiry":"pause","auto_resume":false,"max_lifetime_sec":0}"#;
    let mut text = serde_json::to_vec(&first()).unwrap();
    text.extend([b"\n".as_slice(), line, b"\n"].concat());
    let history = History::parse(&text);
    let limits = history.limits().unwrap();
    assert!(!history.foreign);
    assert_eq!((limits.lifetime.timeout_sec, limits.revision), (9, 0));
}

#[test]
fn a_copy_is_unnamed_until_its_guest_was_told_who_it_is() {
    let sources = |base| Some(Sources { base, ..kept(1).sources });
    let object = Base::Object { id: ObjectId("o".into()) };
    let mut history = History { entries: vec![first()], foreign: false };
    for (entry, unnamed) in [
        (Entry::Boot { attempt: 1, sources: sources(object.clone()), platform: None }, true),
        (running(), true),
        (Entry::Boot { attempt: 2, sources: sources(Base::Empty), platform: None }, false),
        (Entry::Boot { attempt: 1, sources: sources(object.clone()), platform: None }, true),
        (Entry::Repaired { protocol: Some(1) }, false),
        (Entry::Boot { attempt: 1, sources: sources(object.clone()), platform: None }, false),
    ] {
        history.entries.push(entry.clone());
        assert_eq!(history.traces().unnamed_copy, unnamed, "{entry:?}");
    }
    let rewritten = vec![
        first(),
        Entry::Paused(Box::new(kept(1))),
        Entry::Boot { attempt: 1, sources: sources(object), platform: None },
    ];
    assert!(!History { entries: rewritten, foreign: false }.traces().unnamed_copy);
}

#[test]
fn a_resume_that_was_given_up_before_its_guest_knew_began_no_life() {
    let call = |life| Call { operation: OperationId::from_random([9; 16]), incarnation: Incarnation(life) };
    let repaired = Entry::Repaired { protocol: Some(1) };
    let mut history = History { entries: vec![first(), boot(1), running(), repaired.clone()], foreign: false };
    for (entry, life) in [
        (Entry::Paused(Box::new(kept(1))), 1),
        (Entry::Resuming { call: call(2) }, 1),
        (running(), 2),
        (Entry::Paused(Box::new(kept(1))), 1),
        (Entry::Resuming { call: call(2) }, 1),
        (running(), 2),
        (repaired, 2),
        (Entry::Paused(Box::new(kept(2))), 2),
    ] {
        history.entries.push(entry.clone());
        assert_eq!(history.call().unwrap().incarnation, Incarnation(life), "{entry:?}");
    }
}

#[test]
fn what_ran_and_was_not_told_who_it_is_falls_back_to_its_disk() {
    let resuming =
        Entry::Resuming { call: Call { operation: OperationId::from_random([9; 16]), incarnation: Incarnation(2) } };
    let repaired = Entry::Repaired { protocol: Some(1) };
    let mut history = History { entries: vec![first(), boot(1), running()], foreign: false };
    assert_eq!(history.fallen_back(), None, "it was being made");
    assert!(!history.was_introduced());
    for (entry, falls_back, introduced) in [
        (repaired.clone(), false, true),
        (Entry::Pausing { generation: "g".into() }, false, true),
        (Entry::Paused(Box::new(kept(1))), false, true),
        (resuming, false, true),
        (boot(1), false, false),
        (running(), true, false),
        (repaired, false, true),
    ] {
        history.entries.push(entry.clone());
        assert_eq!(history.was_introduced(), introduced, "{entry:?}");
        let kept = history.fallen_back();
        assert_eq!(kept.is_some(), falls_back, "{entry:?}");
        assert!(kept.is_none_or(|kept| kept.paused.generation.is_none() && !kept.diff));
    }
}

#[test]
fn what_was_told_is_read_back() {
    let event = |seq, kind| {
        let sandbox = SandboxId::from_random([2; 16]);
        Entry::Told(HostEvent { seq: EventSeq(seq), sandbox, incarnation: Incarnation::FIRST, kind })
    };
    let mut history = History { entries: vec![first(), event(1, HostEventKind::DiskFull)], foreign: false };
    assert!(history.halt_told() && !history.end_told());
    history.entries.push(event(2, HostEventKind::Resumed));
    assert!(!history.halt_told());
    history.entries.push(Entry::Tombstone { reason: "r".into(), tell: true });
    history.entries.push(event(3, HostEventKind::Ended { reason: "r".into() }));
    assert!(history.end_told());
    assert_eq!(history.tombstone(), Some(("r", true)));
}

#[test]
fn what_is_kept_lasts_until_a_vm_of_it_runs_and_a_life_begins_then() {
    let kept = kept(1);
    let first_life = History { entries: vec![first()], foreign: false }.call().unwrap();
    let call = Call { operation: OperationId::from_random([9; 16]), incarnation: Incarnation(2) };
    let mut history = History { entries: vec![first(), boot(1), running()], foreign: false };
    let pausing = Entry::Pausing { generation: "g".into() };
    for (entry, is_paused, repair, life) in [
        (pausing, false, true, &first_life),
        (Entry::Paused(Box::new(kept.clone())), true, true, &first_life),
        (Entry::Resuming { call: call.clone() }, true, true, &first_life),
        (boot(1), true, true, &first_life),
        (running(), false, true, &call),
        (Entry::Repaired { protocol: Some(1) }, false, false, &call),
        (Entry::Copying { object: ObjectId("o".into()) }, false, true, &call),
        (Entry::Repaired { protocol: None }, false, false, &call),
    ] {
        history.entries.push(entry.clone());
        assert_eq!(history.paused().is_some(), is_paused, "{entry:?}");
        assert_eq!(history.needs_repair(), repair, "{entry:?}");
        assert_eq!(history.call().as_ref(), Some(life), "{entry:?}");
    }
    let base = Base::Own { file: "base-h".into(), digest: Digest([7; 32]), stamp: None };
    history.entries.push(Entry::Paused(Box::new(kept)));
    history.entries.push(Entry::Flattened { base: base.clone() });
    let now = history.paused().unwrap();
    assert_eq!((now.diff, now.sources.base), (false, base));
    history.entries.push(Entry::MemoryLost);
    assert_eq!(history.paused().unwrap().paused.generation, None);
}
