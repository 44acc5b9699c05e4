//! What every `HostDriver` keeps to about the life of a sandbox: pause, resume, templates, limits.
//!
//! How it works: as [`crate::conformance`]; each rule makes its own sandbox and ends it.
//!
//! Deliberately absent: what only a simulated host can be told to do, such as a limit that is reached at once.

use std::sync::Arc;

use atoll_domain::host::{
    CreateSandbox, Destroyed, HostError, HostSandboxState, MakeTemplate, PauseMode, ResumeSandbox, SandboxFacts,
    SandboxSecrets,
};
use atoll_domain::snapshot::MemoryReason;
use atoll_domain::ttl::{Lifetime, Limits};
use atoll_domain::{Incarnation, SandboxId};
use atoll_guest_client::{AGENT_PORT, AccessToken, FileBody, GuestClient, dial_fn};

use crate::conformance::Driver;
use crate::{eventually, ids};

const FIRST: Incarnation = Incarnation::FIRST;
const SECOND: Incarnation = Incarnation(2);

/// A sandbox that runs, and what it was made of.
async fn made(driver: &Driver) -> (SandboxId, CreateSandbox) {
    let id = ids::sandbox();
    let request = ids::request(&id);
    driver.create(ids::call(FIRST), request.clone()).await.expect("a create");
    (id, request)
}

async fn end(driver: &Driver, life: Incarnation, id: SandboxId) {
    assert_eq!(driver.destroy(ids::call(life), id).await, Ok(Destroyed::Done));
}

fn resume(mode: PauseMode, secrets: &SandboxSecrets) -> ResumeSandbox {
    ResumeSandbox { mode, secrets: secrets.clone() }
}

/// A client of a sandbox's agent.
fn agent(driver: &Driver, id: &SandboxId, secrets: &SandboxSecrets) -> GuestClient {
    let (driver, id) = (Arc::clone(driver), id.clone());
    let dial = dial_fn(move || {
        let (driver, id) = (Arc::clone(&driver), id.clone());
        async move { driver.open_stream(id, AGENT_PORT).await.map_err(std::io::Error::other) }
    });
    GuestClient::new(dial, Some(AccessToken::new(secrets.token.expose())))
}

async fn write(agent: &GuestClient, path: &str, text: &'static str) {
    agent.write_file(path, Some("root"), FileBody::bytes(text.as_bytes())).await.expect("a write");
}

async fn read(agent: &GuestClient, path: &str) -> bytes::Bytes {
    let file = agent.read_file(path, Some("root"), None).await.expect("a read");
    file.read_to_end(1024).await.expect("its bytes")
}

fn is_wrong_state<T: std::fmt::Debug>(answer: &Result<T, HostError>) -> bool {
    matches!(answer, Err(HostError::WrongState { .. }))
}

/// A pause asked twice at once, and again afterwards, is one; a resume brings the next life, and asked twice is one.
pub async fn pause_and_resume_are_idempotent(driver: &Driver) {
    let (id, request) = made(driver).await;
    let guest = agent(driver, &id, &request.secrets);
    write(&guest, "/root/kept", "before the pause").await;
    let pause = || driver.pause(ids::call(FIRST), id.clone(), PauseMode::Memory);
    let (one, other) = tokio::join!(pause(), pause());
    let kept = one.expect("a pause");
    assert_eq!(other.as_ref(), Ok(&kept), "who asks meanwhile joins");
    assert_eq!(pause().await, Ok(kept.clone()), "who asks again hears the same");
    assert!(kept.generation.is_some() && kept.bytes > 0, "{kept:?}");
    let facts = driver.inspect(id.clone()).await.expect("a paused one is known");
    assert_eq!((facts.state, facts.incarnation, facts.paused), (HostSandboxState::Paused, FIRST, Some(kept)));
    assert_eq!(facts.vmm_pid, None, "no VM of it is left");
    assert!(driver.list().await.expect("a list").iter().any(|facts| facts.id == id));
    assert!(driver.open_stream(id.clone(), AGENT_PORT).await.is_err());
    let stale = driver.resume(ids::call(FIRST), id.clone(), resume(PauseMode::Memory, &request.secrets)).await;
    assert!(is_wrong_state(&stale), "the life that was paused is over: {stale:?}");
    let go_on = || driver.resume(ids::call(SECOND), id.clone(), resume(PauseMode::Memory, &request.secrets));
    let (one, other) = tokio::join!(go_on(), go_on());
    let facts: SandboxFacts = one.expect("a resume");
    assert_eq!(other.expect("who asks meanwhile joins").vmm_pid, facts.vmm_pid);
    assert_eq!(go_on().await.expect("who asks again hears the same").vmm_pid, facts.vmm_pid);
    assert_eq!((facts.state, facts.incarnation, facts.paused), (HostSandboxState::Running, SECOND, None));
    assert_eq!(read(&guest, "/root/kept").await, &b"before the pause"[..]);
    let late = driver.pause(ids::call(FIRST), id.clone(), PauseMode::Memory).await;
    assert!(is_wrong_state(&late), "a late pause of the first life: {late:?}");
    end(driver, SECOND, id).await;
}

/// A pause that keeps the disk alone has no memory to resume, and boots.
pub async fn the_disk_alone_boots(driver: &Driver) {
    let (id, request) = made(driver).await;
    let guest = agent(driver, &id, &request.secrets);
    write(&guest, "/root/kept", "on disk").await;
    let kept = driver.pause(ids::call(FIRST), id.clone(), PauseMode::Disk).await.expect("a pause");
    assert_eq!(kept.generation, None);
    let memory = driver.resume(ids::call(SECOND), id.clone(), resume(PauseMode::Memory, &request.secrets)).await;
    assert_eq!(memory.err(), Some(HostError::MemoryUnusable(MemoryReason::DiskOnly)), "nothing falls back by itself");
    let template = MakeTemplate { template: "tpl-of-a-disk".into() };
    let copied = driver.make_template(ids::call(FIRST), id.clone(), template).await;
    assert_eq!(copied.err(), Some(HostError::MemoryUnusable(MemoryReason::DiskOnly)), "a template holds memory");
    let state = driver.inspect(id.clone()).await.expect("it stays paused").state;
    assert_eq!(state, HostSandboxState::Paused);
    let disk = driver.resume(ids::call(SECOND), id.clone(), resume(PauseMode::Disk, &request.secrets)).await;
    assert_eq!(disk.expect("a boot").incarnation, SECOND);
    assert_eq!(read(&guest, "/root/kept").await, &b"on disk"[..]);
    end(driver, SECOND, id).await;
}

/// A pause and a template are of the life that runs or was paused: a call of one that is over, or has not begun, has no effect.
pub async fn a_pause_and_a_template_of_another_life_are_refused(driver: &Driver) {
    let (id, request) = made(driver).await;
    let template = format!("tpl-{}", ids::sandbox());
    let copy = |life| driver.make_template(ids::call(life), id.clone(), MakeTemplate { template: template.clone() });
    let early = copy(SECOND).await;
    assert!(is_wrong_state(&early), "a template of a life that has not begun: {early:?}");
    let early = driver.pause(ids::call(SECOND), id.clone(), PauseMode::Memory).await;
    assert!(is_wrong_state(&early), "a pause of a life that has not begun: {early:?}");
    driver.pause(ids::call(FIRST), id.clone(), PauseMode::Memory).await.expect("a pause");
    let early = copy(SECOND).await;
    assert!(is_wrong_state(&early), "a template of a life that has not begun: {early:?}");
    driver.resume(ids::call(SECOND), id.clone(), resume(PauseMode::Memory, &request.secrets)).await.expect("a resume");
    let late = copy(FIRST).await;
    assert!(is_wrong_state(&late), "a late template of the first life: {late:?}");
    assert!(!driver.templates().await.expect("the templates").contains(&template), "something was made");
    copy(SECOND).await.expect("a template of the life that runs");
    let late = copy(FIRST).await;
    assert!(is_wrong_state(&late), "also when it is there: {late:?}");
    assert_eq!(driver.drop_template(template).await, Ok(()));
    let facts = driver.inspect(id.clone()).await.expect("it is there");
    assert_eq!((facts.state, facts.incarnation), (HostSandboxState::Running, SECOND));
    end(driver, SECOND, id).await;
}

/// What runs is promised its memory, and what a limit's pause of it writes; its console can be read. All of that ends with its pause.
pub async fn what_runs_is_promised_room_and_has_a_console(driver: &Driver) {
    assert_eq!(driver.console(ids::sandbox()).await, Err(HostError::NotFound));
    let (id, request) = made(driver).await;
    let console = driver.console(id.clone()).await.expect("its console");
    assert!(console.len() <= 256 << 10, "{} bytes", console.len());
    let capacity = driver.capacity().await.expect("a capacity");
    assert!(capacity.cpus > 0 && capacity.max_vcpus > 0, "{capacity:?}");
    assert!(capacity.templates.contains(&request.spec.template), "{capacity:?}");
    let before = capacity.room;
    assert!(before.total_mb == capacity.memory_mb && before.available_mb <= before.total_mb, "{capacity:?}");
    let memory_mb = u64::from(request.spec.shape.memory_mb);
    let promised = || async {
        let room = driver.capacity().await.expect("a capacity").room;
        (room.promised_mb, room.pause_mb)
    };
    let lifetime = Lifetime { timeout_sec: 3600, ..Lifetime::default() };
    assert_eq!(driver.set_lifetime(id.clone(), Limits { lifetime, revision: 1 }).await, Ok(()));
    assert_eq!(promised().await, (before.promised_mb, before.pause_mb + memory_mb));
    driver.pause(ids::call(FIRST), id.clone(), PauseMode::Memory).await.expect("a pause");
    assert_eq!(promised().await, (before.promised_mb - memory_mb, before.pause_mb), "it has no VM");
    let paused = driver.console(id.clone()).await;
    assert!(is_wrong_state(&paused), "{paused:?}");
    end(driver, FIRST, id).await;
}

/// The opposite of what is under way is refused with the state; what is not there, or stands in no such state, too.
pub async fn what_cannot_be_done_now_is_refused(driver: &Driver) {
    let nobody = ids::sandbox();
    let (id, request) = made(driver).await;
    let memory = || resume(PauseMode::Memory, &request.secrets);
    assert_eq!(driver.pause(ids::call(FIRST), nobody.clone(), PauseMode::Memory).await, Err(HostError::NotFound));
    assert_eq!(driver.resume(ids::call(SECOND), nobody.clone(), memory()).await, Err(HostError::NotFound));
    assert_eq!(driver.set_lifetime(nobody.clone(), Limits::default()).await, Err(HostError::NotFound));
    let template = || MakeTemplate { template: "tpl-nobody".into() };
    assert_eq!(driver.make_template(ids::call(FIRST), nobody.clone(), template()).await, Err(HostError::NotFound));
    assert_eq!(driver.touch(vec![nobody, id.clone()]).await, Ok(()), "what is not there is left out");
    let running = driver.resume(ids::call(SECOND), id.clone(), memory()).await;
    assert!(is_wrong_state(&running), "it runs: {running:?}");
    let (asker, target) = (Arc::clone(driver), id.clone());
    let pausing = tokio::spawn(async move { asker.pause(ids::call(FIRST), target, PauseMode::Memory).await });
    let begun = || async {
        let state = driver.inspect(id.clone()).await.expect("it is there").state;
        (state != HostSandboxState::Running).then_some(())
    };
    eventually("the pause to begin", begun).await;
    let opposite = driver.resume(ids::call(SECOND), id.clone(), memory()).await;
    // Either the pause was still under way, or it had just ended.
    assert!(is_wrong_state(&opposite) || opposite.is_ok(), "{opposite:?}");
    pausing.await.expect("no panic").expect("the pause goes on");
    let life = if opposite.is_ok() { SECOND } else { FIRST };
    end(driver, life, id).await;
}

/// Callers of a pause and of a resume that go away call nothing off: both end all the same, and a replay is told what came of them.
pub async fn a_cancelled_pause_and_resume_end_all_the_same(driver: &Driver) {
    let (id, request) = made(driver).await;
    let guest = agent(driver, &id, &request.secrets);
    write(&guest, "/root/kept", "before the pause").await;
    let state = || async { driver.inspect(id.clone()).await.expect("it is there").state };
    let left = |from: HostSandboxState| async move { (state().await != from).then_some(()) };
    let comes = |to: HostSandboxState| async move { (state().await == to).then_some(()) };

    let call = ids::call(FIRST);
    let (asker, asked, target) = (Arc::clone(driver), call.clone(), id.clone());
    let caller = tokio::spawn(async move { asker.pause(asked, target, PauseMode::Memory).await });
    eventually("the pause to begin", || left(HostSandboxState::Running)).await;
    caller.abort();
    eventually("the pause to end", || comes(HostSandboxState::Paused)).await;
    let kept = driver.inspect(id.clone()).await.expect("it is there").paused;
    assert_eq!(driver.pause(call, id.clone(), PauseMode::Memory).await.ok(), kept);

    let call = ids::call(SECOND);
    let (asker, asked, target, memory) =
        (Arc::clone(driver), call.clone(), id.clone(), resume(PauseMode::Memory, &request.secrets));
    let caller = tokio::spawn(async move { asker.resume(asked, target, memory).await });
    eventually("the resume to begin", || left(HostSandboxState::Paused)).await;
    caller.abort();
    eventually("the resume to end", || comes(HostSandboxState::Running)).await;
    let facts = driver.inspect(id.clone()).await.expect("it is there");
    let again = driver.resume(call, id.clone(), resume(PauseMode::Memory, &request.secrets)).await;
    assert_eq!(again.map(|again| (again.incarnation, again.vmm_pid)), Ok((SECOND, facts.vmm_pid)));
    assert_eq!(read(&guest, "/root/kept").await, &b"before the pause"[..]);
    end(driver, SECOND, id).await;
}

/// A pause and a resume whose answers are lost have had their effects: the same call again has none, and is told of the first; one
/// that comes when its life is over has none either.
pub async fn lost_replies_of_pause_and_resume_are_told_again(driver: &Driver) {
    let (id, request) = made(driver).await;
    let guest = agent(driver, &id, &request.secrets);
    write(&guest, "/root/kept", "before the pause").await;
    let (pause, go_on) = (ids::call(FIRST), ids::call(SECOND));
    let pauses = || driver.pause(pause.clone(), id.clone(), PauseMode::Memory);
    let resumes = || driver.resume(go_on.clone(), id.clone(), resume(PauseMode::Memory, &request.secrets));

    drop(pauses().await);
    let facts = driver.inspect(id.clone()).await.expect("it is there");
    assert_eq!((facts.state, facts.incarnation), (HostSandboxState::Paused, FIRST));
    assert_eq!(pauses().await.ok(), facts.paused, "the first one's answer, and nothing written anew");

    drop(resumes().await);
    let facts = driver.inspect(id.clone()).await.expect("it is there");
    assert_eq!((facts.state, facts.incarnation), (HostSandboxState::Running, SECOND));
    write(&guest, "/root/kept", "after the resume").await;
    assert_eq!(resumes().await.expect("the first one's answer").vmm_pid, facts.vmm_pid, "no second VM");
    let late = pauses().await;
    assert!(is_wrong_state(&late), "a pause of the life that is over: {late:?}");
    assert_eq!(read(&guest, "/root/kept").await, &b"after the resume"[..]);

    driver.pause(ids::call(SECOND), id.clone(), PauseMode::Memory).await.expect("a pause of the second life");
    let late = resumes().await;
    assert!(is_wrong_state(&late), "a resume into the life that is over: {late:?}");
    let facts = driver.inspect(id.clone()).await.expect("it is there");
    assert_eq!((facts.state, facts.incarnation), (HostSandboxState::Paused, SECOND));
    end(driver, SECOND, id).await;
}

/// Of two changes of limits the newer one counts, in whatever order they come and however often, also in a later life.
pub async fn an_older_change_of_limits_never_wins(driver: &Driver) {
    let (id, request) = made(driver).await;
    let limit = |revision, timeout_sec| Limits { lifetime: Lifetime { timeout_sec, ..Lifetime::default() }, revision };
    let set = |limits| driver.set_lifetime(id.clone(), limits);
    let kept = || async { driver.inspect(id.clone()).await.expect("it is there").limits };
    assert_eq!(kept().await, Limits { lifetime: request.spec.lifetime, revision: 0 });
    assert_eq!(set(limit(1, 1000)).await, Ok(()));
    assert_eq!(set(limit(3, 3000)).await, Ok(()));
    assert_eq!(set(limit(2, 2000)).await, Ok(()), "it was overtaken, which is no error");
    assert_eq!(kept().await, limit(3, 3000));
    assert_eq!(set(limit(1, 1000)).await, Ok(()), "a replay that comes late");
    assert_eq!(set(limit(3, 3000)).await, Ok(()), "the newest again");
    assert_eq!(kept().await, limit(3, 3000));
    driver.pause(ids::call(FIRST), id.clone(), PauseMode::Memory).await.expect("a pause");
    assert_eq!(set(limit(4, 4000)).await, Ok(()), "a paused one has limits, too");
    driver.resume(ids::call(SECOND), id.clone(), resume(PauseMode::Memory, &request.secrets)).await.expect("a resume");
    assert_eq!(kept().await, limit(4, 4000));
    assert_eq!(set(limit(2, 2000)).await, Ok(()));
    assert_eq!(kept().await, limit(4, 4000));
    end(driver, SECOND, id.clone()).await;
    assert_eq!(set(limit(5, 5000)).await, Err(HostError::NotFound));
}

/// A destroy wins over a pause and over a resume; who waits is told, and nothing is left.
pub async fn destroy_wins_over_pause_and_resume(driver: &Driver) {
    let (id, request) = made(driver).await;
    let (asker, target) = (Arc::clone(driver), id.clone());
    let pausing = tokio::spawn(async move { asker.pause(ids::call(FIRST), target, PauseMode::Memory).await });
    let left = |from: HostSandboxState| {
        let (driver, id) = (Arc::clone(driver), id.clone());
        async move { (driver.inspect(id).await.map_or(true, |facts| facts.state != from)).then_some(()) }
    };
    eventually("the pause to begin", || left(HostSandboxState::Running)).await;
    end(driver, FIRST, id.clone()).await;
    let told = pausing.await.expect("no panic");
    assert!(told.is_ok() || is_wrong_state(&told), "{told:?}");
    assert_eq!(driver.inspect(id).await, Err(HostError::NotFound));

    let (id, request) = (ids::sandbox(), CreateSandbox { secrets: request.secrets, ..request });
    let mut again = ids::request(&id);
    again.secrets = request.secrets.clone();
    driver.create(ids::call(FIRST), again).await.expect("a create");
    driver.pause(ids::call(FIRST), id.clone(), PauseMode::Memory).await.expect("a pause");
    let (asker, target, memory) = (Arc::clone(driver), id.clone(), resume(PauseMode::Memory, &request.secrets));
    let resuming = tokio::spawn(async move { asker.resume(ids::call(SECOND), target, memory).await });
    let begun = || async {
        let state = driver.inspect(id.clone()).await.map(|facts| facts.state);
        (state != Ok(HostSandboxState::Paused)).then_some(())
    };
    eventually("the resume to begin", begun).await;
    end(driver, SECOND, id.clone()).await;
    let told = resuming.await.expect("no panic");
    assert!(told.is_ok() || is_wrong_state(&told), "{told:?}");
    assert_eq!(driver.inspect(id.clone()).await, Err(HostError::NotFound));
    assert!(driver.list().await.expect("a list").iter().all(|facts| facts.id != id));
}

/// A template is made of a running and of a paused sandbox, which stay as they are; a copy begins with their files; a drop may be repeated.
pub async fn templates_are_made_copied_and_dropped(driver: &Driver) {
    let (id, request) = made(driver).await;
    let guest = agent(driver, &id, &request.secrets);
    write(&guest, "/root/kept", "in the template").await;
    let name = || format!("tpl-{}", ids::sandbox());
    let (first, second) = (name(), name());
    let make = |template: &String| MakeTemplate { template: template.clone() };
    let made = driver.make_template(ids::call(FIRST), id.clone(), make(&first)).await.expect("a template");
    assert_eq!((&made.template, made.shape), (&first, request.spec.shape));
    let again = driver.make_template(ids::call(FIRST), id.clone(), make(&first)).await.expect("the same again");
    assert_eq!(again.bytes, made.bytes);
    let state = driver.inspect(id.clone()).await.expect("it is there").state;
    assert_eq!(state, HostSandboxState::Running, "it goes on");
    let paused = driver.pause(ids::call(FIRST), id.clone(), PauseMode::Memory).await.expect("a pause");
    let of_paused = driver.make_template(ids::call(FIRST), id.clone(), make(&second)).await;
    let mut made = vec![&first];
    if paused.quiesced {
        of_paused.expect("a template of a paused one");
        made.push(&second);
    } else {
        // Its agent did not answer in time, as may be on a loaded machine.
        assert_eq!(of_paused.err(), Some(HostError::Unquiesced));
    }
    assert_eq!(driver.inspect(id.clone()).await.expect("it is there").state, HostSandboxState::Paused);
    let kept = driver.templates().await.expect("the templates");
    assert!(made.iter().all(|template| kept.contains(template)), "{kept:?}");
    end(driver, FIRST, id).await;
    for template in made {
        let copy = ids::sandbox();
        let mut from = ids::request(&copy);
        from.spec.snapshot = Some(template.clone());
        // Its agent still knows the token of the sandbox that the template was made of.
        from.inherited = Some(request.secrets.token.clone());
        driver.create(ids::call(FIRST), from.clone()).await.expect("a create from a template");
        assert_eq!(read(&agent(driver, &copy, &from.secrets), "/root/kept").await, &b"in the template"[..]);
        assert_eq!(driver.drop_template(template.clone()).await, Ok(()), "the copy goes on without it");
        assert_eq!(driver.drop_template(template.clone()).await, Ok(()), "the same again");
        assert_eq!(read(&agent(driver, &copy, &from.secrets), "/root/kept").await, &b"in the template"[..]);
        end(driver, FIRST, copy).await;
    }
    let kept = driver.templates().await.expect("the templates");
    assert!(!kept.contains(&first) && !kept.contains(&second), "{kept:?}");
    let late = ids::sandbox();
    let mut from = ids::request(&late);
    from.spec.snapshot = Some(first);
    let refused = driver.create(ids::call(FIRST), from).await;
    assert!(matches!(refused, Err(HostError::UnknownTemplate { .. })), "{refused:?}");
    assert_eq!(driver.inspect(late).await, Err(HostError::NotFound));
}

/// Metrics of a paused one can still be had, so that a pause keeps all of them.
pub async fn metrics_of_a_paused_one_can_be_flushed(driver: &Driver) {
    let (id, _) = made(driver).await;
    driver.pause(ids::call(FIRST), id.clone(), PauseMode::Memory).await.expect("a pause");
    let first = driver.flush_metrics(id.clone()).await.expect("a flush");
    let again = driver.flush_metrics(id.clone()).await.expect("another flush");
    assert_eq!(first, again, "nothing is sampled while no VM is there");
    end(driver, FIRST, id).await;
}

/// A scrub reads what is kept, finds nothing that is damaged, and leaves everything as it is.
pub async fn a_scrub_reads_what_is_kept(driver: &Driver) {
    let before = driver.scrub().await.expect("a scrub");
    assert_eq!(before.damaged, []);
    let (id, request) = made(driver).await;
    let guest = agent(driver, &id, &request.secrets);
    write(&guest, "/root/kept", "before the scrub").await;
    let kept = driver.pause(ids::call(FIRST), id.clone(), PauseMode::Memory).await.expect("a pause");
    let after = driver.scrub().await.expect("another scrub");
    assert_eq!(after.damaged, []);
    assert!(after.files > before.files && after.bytes > before.bytes, "{before:?} {after:?}");
    assert_eq!(driver.inspect(id.clone()).await.expect("it is there").paused, Some(kept));
    driver.resume(ids::call(SECOND), id.clone(), resume(PauseMode::Memory, &request.secrets)).await.expect("a resume");
    assert_eq!(read(&guest, "/root/kept").await, &b"before the scrub"[..]);
    end(driver, SECOND, id).await;
}
