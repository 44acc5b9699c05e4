//! What must hold after a case: everybody agrees, and what was answered has come to pass.
//!
//! How it works: Atoll is started unarmed and the checker asked until it agrees. What was asked under a key is asked again and must have
//! happened once. A paused sandbox is resumed: its process goes on, its file is there. A template makes a sandbox with that file.
//! Then everything is ended, and compared again.
//!
//! Deliberately absent: an opinion about what a cut-off call should have become, as long as everybody agrees on it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use atoll_api::{CreateSandboxRequest, ErrorCode, ModeRequest, Sandbox, SandboxStatus, UpdateSandboxRequest};
use atoll_client::{Client, ClientError};

use super::acts::{Deed, Told, template_of};
use super::world::{World, shell, until};
use super::{checker, keyed};

const SETTLED: Duration = Duration::from_secs(60);

/// What may have become of a sandbox.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowed {
    /// Somebody killed its keeper or its VMM, so it may be over.
    pub(crate) end: bool,
    /// What was kept of its memory may be of no use.
    pub(crate) memory_loss: bool,
}

/// Starts Atoll unarmed and looks; the difference is the error.
pub(crate) async fn check(world: &mut World, told: &Told, allowed: Allowed) -> Result<(), String> {
    world.start(&[])?;
    let nothing = world.file("never");
    if !world.is_up(&nothing).await? {
        return Err("Atoll does not start again".into());
    }
    let (data, client) = (world.data(), world.client());
    let _ = fs::remove_file(data.join("bin/hidden"));
    until("it does not settle", SETTLED, async || checker::compare(&data, &client).await).await?;
    world.resident_lives().await?;
    limit(world, &client, told).await?;
    if let Some(wanted) = &told.wanted {
        of_the_key(&data, &client, told, allowed, wanted).await?;
        template(&client, told, &wanted.key).await?;
    }
    for sandbox in client.sandboxes().await.map_err(text)? {
        if Some(&sandbox.id) != world.resident.as_ref() {
            end(&client, &sandbox.id, allowed).await?;
        }
    }
    until("after the last destroy", SETTLED, async || checker::compare(&data, &client).await).await?;
    world.ensure_resident().await?;
    world.kill();
    Ok(())
}

fn text(error: ClientError) -> String {
    error.to_string()
}

/// The resident's limits are those that were answered.
async fn limit(world: &World, client: &Client, told: &Told) -> Result<(), String> {
    let (Some(limit), Some(resident)) = (told.limit, &world.resident) else { return Ok(()) };
    let now = client.sandbox(resident).await.map_err(text)?.timeout_sec;
    if i64::from(now) == limit { Ok(()) } else { Err(format!("a timeout of {limit} was answered, and it is {now}")) }
}

/// The sandbox of the key: what it may be, and what must be in it.
async fn of_the_key(
    data: &Path,
    client: &Client,
    told: &Told,
    allowed: Allowed,
    wanted: &keyed::Wanted,
) -> Result<(), String> {
    let made = keyed::create_settles(data, wanted).await?;
    let known = told.id.as_ref().is_none_or(|id| *id == made);
    if !known {
        return Err(format!("the key made {:?}, and now {made}", told.id));
    }
    let sandbox = client.sandbox(&made).await.map_err(text)?;
    is_as_answered(&sandbox, told, allowed)?;
    if sandbox.timeout_sec > 0 && matches!(sandbox.status, SandboxStatus::Running | SandboxStatus::Paused) {
        // It has been waited for long enough.
        let never = UpdateSandboxRequest { timeout_sec: Some(0), ..UpdateSandboxRequest::default() };
        client.update(&made, &never).await.map_err(|e| format!("limits of {made}: {e}"))?;
    }
    let memory = match client.sandbox(&made).await.map_err(text)?.status {
        SandboxStatus::Running => !told.gave_memory_up,
        SandboxStatus::Paused => resume(client, &made, allowed.memory_loss || told.gave_memory_up).await?,
        _ => return Ok(()),
    };
    if told.has_file {
        has_file(client, &made, &wanted.key).await?;
    }
    if memory { keyed::start_settles(data, client, &made, &wanted.key).await } else { Ok(()) }
}

/// What was answered is so; what was asked and not answered, or struck, may be as it was before.
fn is_as_answered(sandbox: &Sandbox, told: &Told, allowed: Allowed) -> Result<(), String> {
    use SandboxStatus::{Paused, Running};
    let (status, over) = (sandbox.status, !matches!(sandbox.status, Running | Paused));
    let fits = match told.sandbox {
        None => true,
        Some((Deed::Create | Deed::Template | Deed::Delete, _)) => status == Running,
        Some((Deed::Resume, true)) => status == Running || (status == Paused && allowed.memory_loss),
        Some((Deed::Pause, true)) => status == Paused,
        Some((Deed::Pause | Deed::Resume, false)) => !over,
        Some((Deed::Destroy, answered)) => over || !answered,
    };
    // What was paused has no keeper and no VMM any more whose death could end it.
    let may_end = allowed.end && !matches!(told.sandbox, Some((Deed::Pause, true)));
    if fits || (over && may_end) {
        return Ok(());
    }
    Err(format!("{} is {status} ({:?}), and was told {:?}", sandbox.id, sandbox.reason, told.sandbox))
}

/// Lets it go on; answers whether with its memory.
async fn resume(client: &Client, id: &str, may_lose: bool) -> Result<bool, String> {
    let kept = client.sandbox(id).await.map_err(text)?.paused;
    let has_memory = kept.is_some_and(|kept| kept.mode == "memory");
    if !has_memory && !may_lose {
        return Err(format!("the memory of {id} is lost"));
    }
    match client.resume(id, &ModeRequest::default()).await {
        Ok(_) => Ok(has_memory),
        Err(ClientError::Refused(problem)) if problem.code == ErrorCode::MemoryUnusable && may_lose => {
            let disk = ModeRequest { mode: Some("disk".into()) };
            client.resume(id, &disk).await.map_err(|e| format!("resume of {id} from its disk: {e}"))?;
            Ok(false)
        }
        Err(error) => Err(format!("resume of {id}: {error}")),
    }
}

async fn has_file(client: &Client, id: &str, key: &str) -> Result<(), String> {
    let said = shell(client, id, "cat /root/kept").await?;
    if said.stdout.trim() == key { Ok(()) } else { Err(format!("the file of {id} holds {:?}", said.stdout)) }
}

/// The template: there or not, as was answered; one that is there is whole, and goes.
async fn template(client: &Client, told: &Told, key: &str) -> Result<(), String> {
    let name = template_of(key);
    let there = client.snapshots(None).await.map_err(text)?.iter().any(|template| template.name == name);
    match told.template {
        None if there => return Err(format!("nobody asked for the template {name}")),
        Some((Deed::Template, true)) if !there => return Err(format!("the template {name} is lost")),
        Some((Deed::Delete, true)) if there => return Err(format!("the template {name} was deleted")),
        _ => {}
    }
    if there {
        let from = CreateSandboxRequest { template: Some(name.clone()), ..CreateSandboxRequest::default() };
        let copy = client.create(&from).await.map_err(|e| format!("a sandbox from the template: {e}"))?;
        has_file(client, &copy.id, key).await?;
        client.delete_snapshot(&name).await.map_err(|e| format!("delete of the template: {e}"))?;
    }
    Ok(())
}

/// Whatever a cut-off call left is as good as any other.
async fn end(client: &Client, id: &str, allowed: Allowed) -> Result<(), String> {
    if client.sandbox(id).await.map_err(text)?.status == SandboxStatus::Paused {
        resume(client, id, allowed.memory_loss).await?;
    }
    let said = shell(client, id, "echo ok").await?;
    if said.stdout != "ok\n" {
        return Err(format!("{id} runs and does not work"));
    }
    client.destroy(id).await.map_err(|e| format!("destroy of {id}: {e}"))
}
