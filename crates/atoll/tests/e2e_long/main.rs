//! The long test: a sandbox lives through many cycles of its life while its host agent, its keeper and its VMM are killed.
//!
//! How it works: each cycle pauses a sandbox, resumes it, makes a template of it, makes another from that, and restarts the host agent,
//! which is a process of its own ([`host`]). In half of the cycles somebody is killed at a random moment of a random one of these.
//! All the while programs in the guest write, compute, count and talk ([`guest`]), and what they have told as done is looked for
//! afterwards, once and in order. A sandbox whose VM was killed while it ran is replaced by one from the template made before.
//! At the end the kills themselves are counted ([`kills`]): a run in which nobody died has shown nothing.
//!
//! `ATOLL_LONG_CYCLES` says how many (40), `ATOLL_LONG_SEED` which; a failure prints its seed, which draws the same plan again. The
//! instant of a kill is drawn as a share of what the step last took, so where in the code it strikes is the machine's to say.
//!
//! Deliberately absent: kills at named steps (`kill_matrix`).
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and may say what it saw"
)]

mod cycle;
#[path = "../../src/embedded.rs"]
mod embedded;
mod guest;
mod host;
#[path = "../shared/host_config.rs"]
mod host_config;
mod kills;
mod machine;
mod pace;
mod plan;
mod world;

use std::time::Instant;

use plan::{Plan, Random};
use world::World;

#[test]
fn nothing_is_lost_over_many_cycles() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let cycles = number("ATOLL_LONG_CYCLES").unwrap_or(40);
    let seed = number("ATOLL_LONG_SEED").unwrap_or_else(|| u64::from_le_bytes(atoll_testkit::ids::random()));
    println!("ATOLL_LONG_SEED={seed} ATOLL_LONG_CYCLES={cycles}");
    let mut random = Random(seed);
    let plans: Vec<Plan> = (0..cycles).map(|number| Plan::draw(number, &mut random)).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut world = World::new().await.unwrap();
        let mut outcome = Ok(());
        for plan in &plans {
            let began = Instant::now();
            world.laps();
            outcome = cycle::run(&mut world, plan).await;
            let (fine, took) = (outcome.as_ref().map_or("FAILED", |()| "ok"), began.elapsed().as_secs_f32());
            println!("{plan}: {fine} ({took:.1} s: {})", world.laps());
            if let Err(why) = &outcome {
                outcome = Err(format!("{plan}: {why}\n{}", world.last_log()));
                break;
            }
        }
        println!("{}", world.tally);
        let struck = kills::struck(&plans, &world.tally);
        let ended = world.end().await;
        assert!(outcome.is_ok(), "ATOLL_LONG_SEED={seed}: {}", outcome.unwrap_err());
        assert!(ended.is_ok(), "ATOLL_LONG_SEED={seed}: left behind: {}", ended.unwrap_err());
        assert!(struck.is_ok(), "ATOLL_LONG_SEED={seed}: {}", struck.unwrap_err());
    });
}
