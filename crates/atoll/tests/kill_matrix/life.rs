//! Playing one case.
//!
//! How it works: Atoll starts with the failpoint armed and leads a life that passes every step: it takes the resident over, makes a
//! sandbox, runs something in it, ends it, makes one whose VMM is killed, and fails to make one. As soon as the place is
//! reached the victim dies; then Atoll dies too, starts again unarmed, and the checker looks.
//!
//! Deliberately absent: an opinion about what a cut-off call should have become, as long as everybody agrees on it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::case::{Case, Prelude, Victim};
use super::checker;
use super::world::{LIMIT, World, request, shell, until};

/// Plays a case; the difference that was found is the error.
pub(crate) async fn play(world: &mut World, case: &Case) -> Result<&'static str, String> {
    if case.prelude() == Prelude::Fresh {
        let mut fresh = World::empty();
        let how = reach_and_kill(&mut fresh, case).await;
        let checked = check(&mut fresh).await;
        fresh.end().await;
        checked?;
        return how;
    }
    match case.prelude() {
        Prelude::DiedCreating(place) => die_at(world, place, false).await?,
        Prelude::DiedDestroying(place) => die_at(world, place, true).await?,
        Prelude::Nothing | Prelude::Fresh => {}
    }
    let how = reach_and_kill(world, case).await?;
    check(world).await?;
    Ok(how)
}

/// Leads a life up to the place, and lets the victim die there.
async fn reach_and_kill(world: &mut World, case: &Case) -> Result<&'static str, String> {
    let (held, place) = (world.file("held"), case.place());
    // Left by a case that failed.
    let _ = fs::remove_file(&held);
    let held_text = held.display().to_string();
    let mut variables = vec![("ATOLL_FAILPOINT", place.as_str())];
    if case.victim != Victim::Atoll {
        variables.push(("ATOLL_FAILPOINT_HOLD", held_text.as_str()));
    }
    let before = checker::sandboxes(&world.data());
    world.start(&variables).await?;
    let client = if world.is_up(&held).await? { Some(world.client()) } else { None };
    let data = world.data();
    let life = tokio::spawn(async move {
        if let Some(client) = client {
            lead(&client, &data).await;
        }
    });
    let reached = until("the place", LIMIT, async || match (world.is_dead(), held.exists()) {
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
async fn lead(client: &atoll_client::Client, data: &Path) {
    if let Ok(first) = client.create(&request()).await {
        let _ = shell(client, &first.id, "echo hello").await;
        let _ = client.destroy(&first.id).await;
    }
    if let Ok(second) = client.create(&request()).await {
        // Ends by itself: its event is told, taken in and forgotten.
        checker::kill_of(data, &second.id, Victim::Vmm);
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline {
            match client.sandbox(&second.id).await {
                Ok(sandbox) if sandbox.status == atoll_api::SandboxStatus::Stopped => break,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
    // Without its program no keeper starts.
    let hidden = hide_keeper(data);
    let _ = client.create(&request()).await;
    if let Some((from, to)) = hidden {
        let _ = fs::rename(to, from);
    }
    // Uses are written down every few seconds.
    tokio::time::sleep(Duration::from_secs(6)).await;
}

fn hide_keeper(data: &Path) -> Option<(std::path::PathBuf, std::path::PathBuf)> {
    let program = fs::read_dir(data.join("bin")).ok()?.flatten().next()?.path();
    let hidden = data.join("bin/hidden");
    fs::rename(&program, &hidden).ok()?;
    Some((program, hidden))
}

/// Starts Atoll unarmed and waits until everything agrees.
async fn check(world: &mut World) -> Result<(), String> {
    world.start(&[]).await?;
    let nothing = world.file("never");
    if !world.is_up(&nothing).await? {
        return Err("Atoll does not start again".into());
    }
    let (data, client) = (world.data(), world.client());
    let _ = fs::remove_file(data.join("bin/hidden"));
    until("it does not settle", Duration::from_secs(60), async || checker::compare(&data, &client).await).await?;
    world.resident_lives().await?;
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
    world.start(&[("ATOLL_FAILPOINT", place)]).await?;
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
