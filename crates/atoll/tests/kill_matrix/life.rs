//! Playing one case.
//!
//! How it works: what must have happened before is led first. Then Atoll starts with the failpoint armed and leads the act that passes it.
//! As soon as the place is reached the victim dies; then Atoll dies too, and [`super::check`] looks at what it left.
//!
//! Deliberately absent: what an act does, and what must hold afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::acts::{Life, Progress};
use super::case::{Act, Case, Prelude, Victim, cases};
use super::check::{Allowed, check};
use super::checker;
use super::world::{LIMIT, World, until};

/// How long a place may be behind the act that passes it: what a start settles, and the host's own loops.
const BEHIND: Duration = Duration::from_secs(30);

/// Plays a case; the difference that was found is the error.
pub(crate) async fn play(world: &mut World, case: &Case) -> Result<&'static str, String> {
    let progress = Arc::new(Progress::default());
    if case.prelude() == Prelude::Fresh {
        let mut fresh = World::empty();
        return finish(&mut fresh, case, &progress).await;
    }
    lead_before(world, case.prelude(), &case.key(), case.boots_cold(), &progress).await?;
    finish(world, case, &progress).await
}

async fn finish(world: &mut World, case: &Case, progress: &Arc<Progress>) -> Result<&'static str, String> {
    let how = reach_and_kill(world, case, progress).await?;
    let told = progress.told().clone();
    let allowed = Allowed { end: case.may_end(how == KILLED), memory_loss: how == KILLED && case.may_lose_memory() };
    check(world, &told, allowed).await?;
    Ok(how)
}

/// What must have happened before: led by an Atoll that is killed at its end, or dies on the way.
async fn lead_before(
    world: &mut World,
    prelude: Prelude,
    key: &str,
    cold: bool,
    progress: &Progress,
) -> Result<(), String> {
    let (place, act) = match prelude {
        Prelude::Nothing | Prelude::Fresh => return Ok(()),
        Prelude::Led(act) => (None, act),
        Prelude::Died(place, act) => (Some(place), act),
    };
    if act.needs_paused() {
        Box::pin(lead_before(world, Prelude::Led(Act::Pause), key, cold, progress)).await?;
    }
    let variables: Vec<_> = place.into_iter().map(|place| ("ATOLL_FAILPOINT", place)).collect();
    world.start(&variables)?;
    let never = world.file("never");
    if world.is_up(&never).await? {
        lead(world, act, key, cold, progress).await;
    }
    let failure = progress.told().failure.take();
    match place {
        None if failure.is_some() => return Err(format!("the prelude: {}", failure.unwrap_or_default())),
        None => {}
        Some(place) => {
            let died =
                async || if world.is_dead() { Ok(()) } else { Err(format!("{place} is not passed: {failure:?}")) };
            until("the prelude", BEHIND, died).await?;
        }
    }
    world.kill();
    Ok(())
}

async fn lead(world: &World, act: Act, key: &str, cold: bool, progress: &Progress) {
    let (client, data) = (world.client(), world.data());
    let resident = world.resident.as_deref();
    Life { client: &client, data: &data, key, cold, resident, progress }.lead(act).await;
}

/// What is passed by each act after each prelude, by lives in which nobody dies on the way but in a prelude.
pub(crate) async fn places() -> Result<BTreeMap<(Prelude, Act), BTreeSet<String>>, String> {
    let mut world = World::new().await;
    let mut out = BTreeMap::new();
    let ways: BTreeMap<(Prelude, Act), Case> =
        cases().into_iter().map(|case| ((case.prelude(), case.act), case)).collect();
    for ((prelude, act), case) in ways {
        let passed = if prelude == Prelude::Fresh {
            pass(&mut World::empty(), prelude, &case).await
        } else {
            pass(&mut world, prelude, &case).await
        };
        out.insert((prelude, act), passed.map_err(|why| format!("{prelude:?}, {act:?}: {why}"))?);
    }
    Ok(out)
}

async fn pass(world: &mut World, prelude: Prelude, case: &Case) -> Result<BTreeSet<String>, String> {
    let (key, cold) = (format!("places {}", case.key()).replace(' ', "-"), case.must_boot_cold());
    let progress = Progress::default();
    lead_before(world, prelude, &key, cold, &progress).await?;
    let log = world.file("places");
    let _ = fs::remove_file(&log);
    let log_text = log.display().to_string();
    world.start(&[("ATOLL_FAILPOINT_LOG", log_text.as_str())])?;
    let never = world.file("never");
    if !world.is_up(&never).await? {
        return Err("Atoll does not start".into());
    }
    lead(world, case.act, &key, cold, &progress).await;
    if let Some(failure) = &progress.told().failure {
        return Err(failure.clone());
    }
    let (data, client) = (world.data(), world.client());
    until("it does not settle", Duration::from_secs(60), async || checker::compare(&data, &client).await).await?;
    world.kill();
    let told = progress.told().clone();
    check(world, &told, Allowed { end: false, memory_loss: false }).await?;
    let text = fs::read_to_string(&log).map_err(|e| e.to_string())?;
    Ok(text.lines().map(str::to_owned).collect())
}

const POLL: Duration = Duration::from_millis(10);
/// How long what is under way may take to its end when somebody was killed.
const TO_ITS_END: Duration = Duration::from_secs(5);
/// What is said of a case in which keeper or VMM was killed.
const KILLED: &str = "killed";

/// Leads the act up to the place, and lets the victim die there.
async fn reach_and_kill(world: &mut World, case: &Case, progress: &Arc<Progress>) -> Result<&'static str, String> {
    let (held, place) = (world.file("held"), case.place());
    // Left by a case that failed.
    let _ = fs::remove_file(&held);
    let held_text = held.display().to_string();
    let mut variables = vec![("ATOLL_FAILPOINT", place.as_str())];
    if case.victim != Victim::Atoll {
        variables.push(("ATOLL_FAILPOINT_HOLD", held_text.as_str()));
    }
    let before = checker::sandboxes(&world.data());
    world.start(&variables)?;
    let client = if world.is_up(&held).await? { Some(world.client()) } else { None };
    let (data, key, done, act, cold) = (world.data(), case.key(), Arc::clone(progress), case.act, case.boots_cold());
    let resident = world.resident.clone();
    let life = async {
        if let Some(client) = &client {
            Life { client, data: &data, key: &key, cold, resident: resident.as_deref(), progress: &done }
                .lead(act)
                .await;
        }
    };
    tokio::pin!(life);
    let mut ended: Option<Instant> = None;
    let began = Instant::now();
    while !world.is_dead() && !held.exists() {
        if ended.is_some() {
            tokio::time::sleep(POLL).await;
        } else if tokio::time::timeout(POLL, &mut life).await.is_ok() {
            ended = Some(Instant::now());
        }
        if ended.is_some_and(|at| at.elapsed() > BEHIND) || began.elapsed() > LIMIT {
            return Err(format!("the act does not pass the place: {:?}", progress.told().failure));
        }
    }
    let how = match case.victim {
        Victim::Atoll => "died",
        Victim::Keeper | Victim::Vmm => {
            let killed = strike(world, case.victim, &before, progress);
            fs::remove_file(&held).map_err(|e| e.to_string())?;
            // What was under way ends, well or not; only then does Atoll die.
            progress.enough.store(true, Ordering::SeqCst);
            if ended.is_none() {
                let _ = tokio::time::timeout(TO_ITS_END, &mut life).await;
            }
            if killed { KILLED } else { "nobody to kill" }
        }
    };
    world.kill();
    Ok(how)
}

/// Kills keeper or VMM of the sandbox that the place is about: the one that is being made, or the one of the life, or the resident.
fn strike(world: &mut World, victim: Victim, before: &BTreeSet<String>, progress: &Progress) -> bool {
    let data = world.data();
    let there = checker::sandboxes(&data);
    let newest = there.iter().find(|id| !before.contains(*id)).cloned();
    let of_the_life = progress.told().id.clone().filter(|id| there.contains(id));
    // One of the life that nobody was told of, where it was there before this place.
    let another = there.iter().find(|id| Some(*id) != world.resident.as_ref()).cloned();
    let subject = newest.or(of_the_life).or(another).or_else(|| world.resident.clone());
    let killed = subject.as_ref().is_some_and(|id| checker::kill_of(&data, id, victim));
    if killed && subject == world.resident {
        world.resident = None;
    }
    killed
}
