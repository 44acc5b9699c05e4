//! Atoll, a keeper or a VMM dies at every step there is, and nothing is lost, doubled or left behind.
//!
//! How it works: the table of cases is made from the steps that the crates list themselves: each step, before and after it, times who
//! dies; what several acts pass differently is tried in each. A case starts Atoll with that failpoint armed, leads the act that
//! passes it, lets the victim die by SIGKILL, starts Atoll again and lets the checker compare database, journals, files of
//! what is kept, objects, templates, processes, namespaces, interfaces, tables, control groups, mounts, slots and open calls.
//! What was answered must hold; what was paused goes on. A step that its act does not pass fails a test of its own, whatever
//! cases are run. Beside every case a resident sandbox runs on.
//!
//! `ATOLL_KILL_MATRIX=all` runs all cases; otherwise as many as fit into `ATOLL_KILL_MATRIX_SECONDS` (90), beginning at a place that
//! follows from `ATOLL_KILL_MATRIX_SEED` (the commit), so that commits share the table among them. `ATOLL_KILL_MATRIX_ONLY` picks by
//! a part of a case's name. `ATOLL_KILL_MATRIX_WORLDS` (2) instances play cases at the same time, each with its own.
//!
//! Deliberately absent: figures.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking, and may say what it saw")]

mod acts;
mod case;
mod check;
mod checker;
mod kept;
mod keyed;
mod life;
mod objects;
mod wiring;
mod world;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use case::{Case, Victim, cases};

#[test]
fn every_step_has_its_cases_and_names_are_distinct() {
    let all = cases();
    let mut names: Vec<String> = all.iter().map(ToString::to_string).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all.len(), "two steps share a name");
    for victim in [Victim::Atoll, Victim::Keeper, Victim::Vmm] {
        assert!(all.iter().any(|case| case.victim == victim));
    }
}

/// The slice of a commit may hold no case of a step that the commit adds; this tells at once that no act passes it.
#[test]
fn every_step_there_is_is_passed_by_a_life() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let passed = runtime.block_on(life::places()).unwrap();
    let is_missed = |case: &Case| !passed[&(case.prelude(), case.act)].contains(&case.place());
    let missed: BTreeSet<String> = cases().iter().filter(|case| is_missed(case)).map(ToString::to_string).collect();
    assert!(
        missed.is_empty(),
        "no act passes {missed:#?}: lead it through them in acts.rs, or name another in case.rs"
    );
}

/// What is to be run, from the environment.
struct Plan {
    cases: VecDeque<Case>,
    /// When no further case is begun.
    deadline: Option<Instant>,
    worlds: usize,
}

impl Plan {
    fn read() -> Self {
        let text = |name: &str| std::env::var(format!("ATOLL_KILL_MATRIX{name}")).ok().filter(|text| !text.is_empty());
        let number = |name: &str, otherwise: u64| text(name).map_or(otherwise, |text| text.parse().expect("a number"));
        let only = text("_ONLY").unwrap_or_default();
        let mut table: Vec<Case> = cases().into_iter().filter(|case| case.to_string().contains(&only)).collect();
        // Neighbours are much alike: by a hash of their names a slice has something of everything.
        table.sort_by_key(|case| hash(&case.to_string()));
        let seed = text("_SEED").unwrap_or_default();
        if let Some(first) = usize::try_from(hash(&seed) % 9973).unwrap().checked_rem(table.len()) {
            table.rotate_left(first);
        }
        let all = text("").is_some_and(|text| text == "all");
        let deadline = (!all).then(|| Instant::now() + Duration::from_secs(number("_SECONDS", 90)));
        Self { cases: table.into(), deadline, worlds: usize::try_from(number("_WORLDS", 2)).unwrap() }
    }
}

fn hash(text: &str) -> u64 {
    text.bytes().fold(5381_u64, |h, b| h.wrapping_mul(33) ^ u64::from(b))
}

#[derive(Default)]
struct Report {
    run: usize,
    found: Vec<String>,
}

/// Takes cases until there is none, or no time.
async fn work(queue: &Mutex<VecDeque<Case>>, deadline: Option<Instant>, report: &Mutex<Report>) {
    let mut world = world::World::new().await;
    while deadline.is_none_or(|deadline| Instant::now() < deadline) {
        let Some(case) = queue.lock().unwrap().pop_front() else { break };
        let began = Instant::now();
        let outcome = life::play(&mut world, &case).await;
        report.lock().unwrap().run += 1;
        match outcome {
            Ok(how) => println!("{case}: {how} ({:.1} s)", began.elapsed().as_secs_f32()),
            Err(difference) => {
                println!("{case}: DIFFERENCE: {difference}\n{}", world.last_log());
                report.lock().unwrap().found.push(format!("{case}: {difference}"));
                world = world.replace().await;
            }
        }
    }
}

#[test]
fn nothing_is_lost_wherever_somebody_dies() {
    let Plan { cases, deadline, worlds } = Plan::read();
    let (length, started) = (cases.len(), Instant::now());
    let (queue, report) = (Mutex::new(cases), Mutex::new(Report::default()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let workers = (0..worlds).map(|_| work(&queue, deadline, &report));
    runtime.block_on(futures_util::future::join_all(workers));
    let Report { run, found } = report.into_inner().unwrap();
    println!("{run} of {length} cases run in {:.0} s, {} differences", started.elapsed().as_secs_f32(), found.len());
    assert!(run > 0, "no case ran");
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
}
