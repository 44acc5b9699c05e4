//! Atoll, a keeper or a VMM dies at every step there is, and nothing is lost, doubled or left behind.
//!
//! How it works: the table of cases is made from the steps that the crates list themselves: each step, before and after it, times who
//! dies. A case starts Atoll with that failpoint armed, leads a life that passes it, lets the victim die by SIGKILL, starts
//! Atoll again and lets the checker compare database, journals, processes, namespaces, interfaces, tables, control groups,
//! mounts, slots and open calls. A step that no life passes fails the matrix. Beside every case a resident sandbox runs on.
//!
//! `ATOLL_KILL_MATRIX=all` runs all cases; otherwise as many as fit into `ATOLL_KILL_MATRIX_SECONDS` (200), beginning at a place that
//! follows from `ATOLL_KILL_MATRIX_SEED` (the commit), so that commits share the table among them.
//!
//! Deliberately absent: figures.

mod case;
mod checker;
mod life;
mod world;

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

#[test]
fn nothing_is_lost_wherever_somebody_dies() {
    let all = std::env::var("ATOLL_KILL_MATRIX").is_ok_and(|text| text == "all");
    let number = |name: &str| std::env::var(name).ok();
    let seconds = number("ATOLL_KILL_MATRIX_SECONDS").and_then(|text| text.parse().ok()).unwrap_or(200);
    let seed = number("ATOLL_KILL_MATRIX_SEED").unwrap_or_default();
    let only = number("ATOLL_KILL_MATRIX_ONLY").unwrap_or_default();
    let mut table: Vec<Case> = cases().into_iter().filter(|case| case.to_string().contains(&only)).collect();
    let first = usize::try_from(seed.bytes().fold(5381_u64, |h, b| h.wrapping_mul(33) ^ u64::from(b)) % 997).unwrap();
    let length = table.len();
    table.rotate_left(first % length);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (mut found, mut run, started) = (Vec::new(), 0, Instant::now());
    runtime.block_on(async {
        let mut world = world::World::new().await;
        for case in table {
            if !all && started.elapsed() > Duration::from_secs(seconds) {
                break;
            }
            let began = Instant::now();
            let outcome = life::play(&mut world, &case).await;
            run += 1;
            match outcome {
                Ok(how) => println!("{case}: {how} ({:.1} s)", began.elapsed().as_secs_f32()),
                Err(difference) => {
                    println!("{case}: DIFFERENCE: {difference}\n{}", world.last_log());
                    found.push(format!("{case}: {difference}"));
                    world = world.replace().await;
                }
            }
        }
        world.end().await;
    });
    println!("{run} of {length} cases run, {} differences", found.len());
    assert!(run > 0, "no case ran");
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), found.join("\n"));
}
