//! Playing one case.
//!
//! How it works: Atoll starts with the failpoint armed and leads a life that passes every step: it takes the resident over, makes a
//! sandbox, runs something in it, ends it, makes one whose VMM is killed, and fails to make one. As soon as the place is
//! reached the victim dies; then Atoll dies too, starts again unarmed, and the checker looks. What was asked under an
//! idempotency key is asked again, and must have happened once.
//!
//! Deliberately absent: an opinion about what a cut-off call should have become, as long as everybody agrees on it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::case::{Case, Prelude, Victim, cases};
use super::world::{LIMIT, World, request, shell, until};
use super::{checker, keyed};

/// What a life has done so far, and whether it is to go on.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// A create was sent under the key.
    create_sent: AtomicBool,
    /// Between two acts: no more of them.
    enough: AtomicBool,
}

impl Progress {
    fn is_enough(&self) -> bool {
        self.enough.load(Ordering::SeqCst)
    }
}

/// Plays a case; the difference that was found is the error.
pub(crate) async fn play(world: &mut World, case: &Case) -> Result<&'static str, String> {
    if case.prelude() == Prelude::Fresh {
        let mut fresh = World::empty();
        let how = reach_and_kill(&mut fresh, case, &Arc::default()).await;
        let checked = check(&mut fresh, None).await;
        checked?;
        return how;
    }
    match case.prelude() {
        Prelude::DiedCreating(place) => die_at(world, place, false).await?,
        Prelude::DiedDestroying(place) => die_at(world, place, true).await?,
        Prelude::Nothing | Prelude::Fresh => {}
    }
    let progress = Arc::new(Progress::default());
    let how = reach_and_kill(world, case, &progress).await?;
    let key = case.key();
    check(world, progress.create_sent.load(Ordering::SeqCst).then_some(&key)).await?;
    Ok(how)
}

/// Every place that lives pass, by one life on a new data directory and one start after each prelude; nobody dies on the way.
pub(crate) async fn places() -> Result<BTreeSet<String>, String> {
    let mut world = World::empty();
    let log = world.file("places");
    let log_text = log.display().to_string();
    let variables = [("ATOLL_FAILPOINT_LOG", log_text.as_str())];
    let preludes: BTreeSet<_> = cases().iter().map(Case::prelude).collect();
    for prelude in [Prelude::Fresh].into_iter().chain(preludes) {
        match prelude {
            Prelude::DiedCreating(place) => die_at(&mut world, place, false).await?,
            Prelude::DiedDestroying(place) => die_at(&mut world, place, true).await?,
            Prelude::Nothing | Prelude::Fresh => {}
        }
        world.start(&variables)?;
        let never = world.file("never");
        if !world.is_up(&never).await? {
            return Err("Atoll does not start".into());
        }
        let (data, client) = (world.data(), world.client());
        if prelude == Prelude::Fresh {
            world.ensure_resident().await?;
            lead(&client, &data, "places", &Progress::default()).await;
        }
        until("it does not settle", Duration::from_secs(60), async || checker::compare(&data, &client).await).await?;
        world.kill();
    }
    let text = fs::read_to_string(log).map_err(|e| e.to_string())?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// Leads a life up to the place, and lets the victim die there.
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
    let (data, key, done) = (world.data(), case.key(), Arc::clone(progress));
    let life = tokio::spawn(async move {
        if let Some(client) = client {
            lead(&client, &data, &key, &done).await;
        }
    });
    // A life has several boots before it.
    let reached = until("the place", LIMIT * 3, async || match (world.is_dead(), held.exists()) {
        (true, _) | (_, true) => Ok(()),
        _ if life.is_finished() => Err("no life passes it".to_owned()),
        _ => Err("not reached yet".to_owned()),
    });
    let reached = reached.await;
    if reached.is_err() {
        life.abort();
        return reached.map(|()| "");
    }
    let how = match case.victim {
        Victim::Atoll => "died",
        Victim::Keeper | Victim::Vmm => {
            let newest = checker::sandboxes(&world.data()).into_iter().find(|id| !before.contains(id));
            let subject = newest.or_else(|| world.resident.clone());
            let killed = subject.as_ref().is_some_and(|id| checker::kill_of(&world.data(), id, case.victim));
            if killed && subject == world.resident {
                world.resident = None;
            }
            fs::remove_file(&held).map_err(|e| e.to_string())?;
            // What was under way ends, well or not; only then does Atoll die.
            progress.enough.store(true, Ordering::SeqCst);
            let _ = tokio::time::timeout(Duration::from_secs(5), async {
                while !life.is_finished() && !world.is_dead() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
            .await;
            if killed { "killed" } else { "nobody to kill" }
        }
    };
    world.kill();
    life.abort();
    Ok(how)
}

/// One life that passes every step. What fails on the way is the checker's to judge.
async fn lead(client: &atoll_client::Client, data: &Path, key: &str, progress: &Progress) {
    progress.create_sent.store(true, Ordering::SeqCst);
    if let Ok(first) = keyed::create(data, key).await {
        if !progress.is_enough() {
            let _ = shell(client, &first, "echo hello").await;
        }
        if !progress.is_enough() {
            let _ = keyed::start(data, &first, key).await;
        }
        if progress.is_enough() {
            return;
        }
        let _ = client.destroy(&first).await;
    }
    if progress.is_enough() {
        return;
    }
    if let Ok(second) = client.create(&request()).await {
        // Ends by itself: its event is told, taken in and forgotten.
        checker::kill_of(data, &second.id, Victim::Vmm);
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline && !progress.is_enough() {
            match client.sandbox(&second.id).await {
                Ok(sandbox) if sandbox.status == atoll_api::SandboxStatus::Stopped => break,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
    if progress.is_enough() {
        return;
    }
    // Without its program no keeper starts.
    let hidden = hide_keeper(data);
    let _ = client.create(&request()).await;
    if let Some((from, to)) = hidden {
        let _ = fs::rename(to, from);
    }
    // Uses are written down every few seconds.
    for _ in 0..70 {
        if progress.is_enough() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn hide_keeper(data: &Path) -> Option<(std::path::PathBuf, std::path::PathBuf)> {
    let program = fs::read_dir(data.join("bin")).ok()?.flatten().next()?.path();
    let hidden = data.join("bin/hidden");
    fs::rename(&program, &hidden).ok()?;
    Some((program, hidden))
}

/// Starts Atoll unarmed and waits until everything agrees; what was asked under a key is asked again.
async fn check(world: &mut World, key: Option<&str>) -> Result<(), String> {
    world.start(&[])?;
    let nothing = world.file("never");
    if !world.is_up(&nothing).await? {
        return Err("Atoll does not start again".into());
    }
    let (data, client) = (world.data(), world.client());
    let _ = fs::remove_file(data.join("bin/hidden"));
    until("it does not settle", Duration::from_secs(60), async || checker::compare(&data, &client).await).await?;
    world.resident_lives().await?;
    if let Some(key) = key {
        let made = keyed::create_settles(&data, key).await?;
        // Its answer may tell of one that was destroyed since.
        let sandbox = client.sandbox(&made).await.map_err(|e| e.to_string())?;
        if sandbox.status == atoll_api::SandboxStatus::Running {
            keyed::start_settles(&data, &client, &made, key).await?;
        }
    }
    // Whatever a cut-off create left running is as good as any other.
    for sandbox in client.sandboxes().await.map_err(|e| e.to_string())? {
        let said = shell(&client, &sandbox.id, "echo ok").await?;
        if said.stdout != "ok\n" {
            return Err(format!("{} runs and does not work", sandbox.id));
        }
        if Some(&sandbox.id) != world.resident.as_ref() {
            client.destroy(&sandbox.id).await.map_err(|e| format!("destroy of {}: {e}", sandbox.id))?;
        }
    }
    until("after the last destroy", Duration::from_secs(20), async || checker::compare(&data, &client).await).await?;
    world.ensure_resident().await?;
    world.kill();
    Ok(())
}

/// An Atoll that dies at a place while it makes, or ends, a sandbox.
async fn die_at(world: &mut World, place: &str, destroy: bool) -> Result<(), String> {
    let nothing = world.file("never");
    world.start(&[("ATOLL_FAILPOINT", place)])?;
    if world.is_up(&nothing).await? {
        let client = world.client();
        let made = client.create(&request()).await;
        if let (true, Ok(sandbox)) = (destroy, made) {
            let _ = client.destroy(&sandbox.id).await;
        }
    }
    until("the prelude", LIMIT, async || if world.is_dead() { Ok(()) } else { Err("Atoll lives".into()) }).await?;
    world.kill();
    Ok(())
}
