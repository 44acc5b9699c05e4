//! One cycle: pause, resume, template, a sandbox from it, a restart; and what must hold after each, whoever died.
//!
//! How it works: each step is asked for, the victim of the plan is killed meanwhile, and the state that the sandbox then has must be one
//! that the kill allows ([`allowed`]). Then it is brought back: resumed, or, when its VM was killed while it ran, replaced by one from
//! the last template. What was acknowledged before must be there afterwards.
//!
//! Deliberately absent: mercy for an answer of success: what was answered holds, whoever died later.

use std::time::{Duration, Instant};

use atoll_domain::Incarnation;
use atoll_domain::host::{HostError, HostSandboxState, PauseMode, ResumeSandbox, SandboxFacts};
use atoll_testkit::ids;
use serde_json::Value;

use crate::guest::{self, Kept as What};
use crate::host::Ask;
use crate::kills::NOBODY;
use crate::machine::{lives, strike};
use crate::plan::{Deed, Kill, Plan, STARTS, Victim};
use crate::world::{Failure, Kept, Subject, World, until};

/// How often a template is asked for while a loaded machine keeps the agent from answering.
const TRIES: u32 = 8;

/// How a sandbox is once nothing happens to it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Running,
    /// With its memory; whether it may be copied.
    Paused {
        quiesced: bool,
    },
    /// Its disk alone.
    DiskAlone,
    Gone,
}

/// What came of a step.
struct Outcome {
    answer: Result<Value, Failure>,
    /// Who was killed, if there was somebody to kill.
    struck: Option<Victim>,
}

pub(crate) async fn run(world: &mut World, plan: &Plan) -> Result<(), String> {
    let subject = running(world).await?;
    let ack = guest::acknowledged(&world.guest(&subject)).await?;
    let mut made = None;
    world.lap("begin");
    pause(world, plan, &subject).await.map_err(|e| format!("pause: {e}"))?;
    world.lap("pause");
    if let State::Paused { quiesced } = settled(world, &subject, None).await? {
        world.pace.stands();
        if plan.snapshot_paused && quiesced && plan.kill.is_none_or(|kill| kill.deed != Deed::Snapshot) {
            made = template(world, plan, &subject, ack).await.map_err(|e| format!("template of the paused: {e}"))?;
        }
        world.lap("template of the paused");
        resume(world, plan, &subject).await.map_err(|e| format!("resume: {e}"))?;
        world.lap("resume");
    }
    let mut subject = recovered(world, subject, ack).await?;
    world.lap("look");
    // A kill strikes once.
    let mut plan_left = *plan;
    for _ in 0..TRIES {
        if made.is_some() {
            break;
        }
        let ack = world.progress(&subject, 0).await?;
        made = template(world, &plan_left, &subject, ack).await.map_err(|e| format!("template: {e}"))?;
        plan_left.kill = plan.kill.filter(|kill| kill.deed != Deed::Snapshot);
        subject = recovered(world, subject, ack).await?;
    }
    if made.is_none() {
        return Err("no template in many tries".into());
    }
    let old = world.kept.take();
    world.kept = made;
    world.lap("template");
    let copy = copy(world, plan).await.map_err(|e| format!("create: {e}"))?;
    world.lap("create");
    apart(world, &subject, &copy).await.map_err(|e| format!("a copy: {e}"))?;
    let ack = guest::acknowledged(&world.guest(&subject)).await?;
    let theirs = guest::acknowledged(&world.guest(&copy)).await?;
    world.lap("compare");
    adopt(world, plan, &subject).await.map_err(|e| format!("restart: {e}"))?;
    world.lap("restart");
    let subject = recovered(world, subject, ack).await?;
    world.progress(&copy, theirs).await.map_err(|e| format!("the copy after the restart: {e}"))?;
    let ack = guest::acknowledged(&world.guest(&subject)).await?;
    world.look(&subject, ack).await?;
    destroy(world, &copy).await?;
    if let Some(old) = old {
        world.ask::<()>(&Ask::DropTemplate(old.name)).await.map_err(|e| format!("drop: {e}"))?;
    }
    nothing_else(world, &subject).await?;
    world.lap("look and end");
    world.tally.count("cycles");
    Ok(())
}

/// The sandbox of all cycles, made if there is none.
async fn running(world: &mut World) -> Result<Subject, String> {
    if let Some(subject) = &world.subject {
        return Ok(subject.clone());
    }
    let kept = world.kept.clone();
    let subject = world.wanted(kept.as_ref());
    world.create(&subject).await?;
    match &kept {
        Some(kept) => world.look(&subject, kept.ack).await?,
        None => guest::work(&world.guest(&subject)).await?,
    }
    world.progress(&subject, kept.map_or(0, |kept| kept.ack)).await?;
    world.subject = Some(subject.clone());
    Ok(subject)
}

/// Asks, and kills whom the plan names at its moment.
async fn act(world: &mut World, plan: &Plan, deed: Deed, subject: &Subject, ask: Ask) -> Result<Outcome, String> {
    let began = Instant::now();
    let asked = world.asking(ask);
    let mut struck = None;
    if let Some(Kill { victim, share, .. }) = plan.kill.filter(|kill| kill.deed == deed) {
        tokio::time::sleep(world.moment(deed, share)).await;
        struck = slay(world, victim, subject, || asked.is_finished()).await;
    }
    let answer = asked.await.map_err(|e| e.to_string())?;
    match struck {
        Some(Victim::Atoll) => world.start().await?,
        None if answer.is_ok() => world.note(deed, began.elapsed()),
        _ => {}
    }
    Ok(Outcome { answer, struck })
}

/// Kills and counts it; none if there was nobody to kill any more.
async fn slay(world: &mut World, victim: Victim, subject: &Subject, over: impl Fn() -> bool) -> Option<Victim> {
    let killed = match victim {
        Victim::Atoll => world.kill(),
        Victim::Keeper | Victim::Vmm => strike(subject.id.as_str(), victim, over).await,
    };
    world.tally.count(if killed { victim.killed() } else { NOBODY });
    killed.then_some(victim)
}

async fn facts(world: &World, subject: &Subject) -> Result<Option<SandboxFacts>, String> {
    Ok(world.list().await?.into_iter().find(|facts| facts.id == subject.id))
}

/// Waits until nothing happens to it any more; one whose keeper or VMM was killed runs only where a boot was tried again, by others.
async fn settled(world: &World, subject: &Subject, struck: Option<Victim>) -> Result<State, String> {
    let dead = matches!(struck, Some(Victim::Keeper | Victim::Vmm));
    until("the sandbox to settle", || async {
        let Some(facts) = facts(world, subject).await? else { return Ok(State::Gone) };
        match (facts.state, facts.paused) {
            (HostSandboxState::Running, _) if !dead || lives(facts.keeper_pid) && lives(facts.vmm_pid) => {
                Ok(State::Running)
            }
            (HostSandboxState::Paused, Some(paused)) if paused.generation.is_some() => {
                Ok(State::Paused { quiesced: paused.quiesced })
            }
            (HostSandboxState::Paused, _) => Ok(State::DiskAlone),
            (state, _) => Err(format!("it is {state:?}")),
        }
    })
    .await
}

/// Whether a state may be after a step.
fn allowed(deed: Deed, outcome: &Outcome, state: State) -> Result<(), String> {
    let done = outcome.answer.is_ok();
    let paused = matches!(state, State::Paused { .. });
    let fine = match (outcome.struck, deed) {
        (None, Deed::Pause) => done && paused,
        (None, _) => done && state == State::Running,
        (Some(Victim::Atoll), Deed::Pause) => paused || (!done && state == State::Running),
        (Some(Victim::Atoll), Deed::Resume) => state == State::Running || (!done && paused),
        (Some(Victim::Atoll), _) => state == State::Running,
        (Some(_), Deed::Pause) => paused || (!done && state == State::Gone),
        (Some(_), Deed::Resume) => {
            if done {
                state == State::Gone
            } else {
                paused || state == State::DiskAlone
            }
        }
        (Some(_), _) => state == State::Gone,
    };
    if fine {
        return Ok(());
    }
    let answer = outcome.answer.as_ref().map(drop).map_err(ToString::to_string);
    Err(format!("it is {state:?}, killed was {:?}, the answer {answer:?}", outcome.struck))
}

async fn pause(world: &mut World, plan: &Plan, subject: &Subject) -> Result<(), String> {
    let now = facts(world, subject).await?.ok_or("it is not there")?;
    let ask = Ask::Pause(ids::call(now.incarnation), subject.id.clone());
    let outcome = act(world, plan, Deed::Pause, subject, ask).await?;
    let state = settled(world, subject, outcome.struck).await?;
    if matches!(state, State::Paused { quiesced: false }) {
        world.tally.count("unquiesced");
    }
    allowed(Deed::Pause, &outcome, state)
}

fn resumption(now: &SandboxFacts, subject: &Subject, mode: PauseMode) -> Ask {
    let call = ids::call(Incarnation(now.incarnation.0 + 1));
    let request = ResumeSandbox { mode, secrets: subject.request.secrets.clone() };
    Ask::Resume(call, subject.id.clone(), request)
}

async fn resume(world: &mut World, plan: &Plan, subject: &Subject) -> Result<(), String> {
    let now = facts(world, subject).await?.ok_or("it is not there")?;
    let ask = resumption(&now, subject, PauseMode::Memory);
    world.pace.goes_on();
    let outcome = act(world, plan, Deed::Resume, subject, ask).await?;
    let state = settled(world, subject, outcome.struck.filter(|_| outcome.answer.is_ok())).await?;
    allowed(Deed::Resume, &outcome, state)
}

/// Brings the sandbox back to work, and looks for what was acknowledged.
async fn recovered(world: &mut World, subject: Subject, ack: u64) -> Result<Subject, String> {
    let state = settled(world, &subject, None).await?;
    world.pace.goes_on();
    let again = async |mode| {
        let now = facts(world, &subject).await?.ok_or("it is not there")?;
        let ask = resumption(&now, &subject, mode);
        world.ask::<SandboxFacts>(&ask).await.map(drop).map_err(|e| format!("resumed again: {e}"))
    };
    match state {
        State::Running => {}
        State::Paused { .. } => again(PauseMode::Memory).await?,
        State::DiskAlone => {
            again(PauseMode::Disk).await?;
            world.tally.count("memory lost");
            let guest = world.guest(&subject);
            guest::look_at_disk(&guest, ack)
                .await?
                .holds(ack, What::Disk)
                .map_err(|e| format!("the disk alone: {e}"))?;
            guest::work(&guest).await?;
            world.pace.forget();
        }
        State::Gone => {
            world.tally.count("replaced");
            world.subject = None;
            return running(world).await;
        }
    }
    let ack = world.progress(&subject, ack).await?;
    if state != State::Running {
        world.look(&subject, ack).await?;
    }
    Ok(subject)
}

/// Makes a template; none when somebody died before it stood.
async fn template(world: &mut World, plan: &Plan, subject: &Subject, ack: u64) -> Result<Option<Kept>, String> {
    let was = settled(world, subject, None).await?;
    let name = format!("t-{}", ids::sandbox());
    let now = facts(world, subject).await?.ok_or("it is not there")?;
    let ask = Ask::Template(ids::call(now.incarnation), subject.id.clone(), name.clone());
    let outcome = act(world, plan, Deed::Snapshot, subject, ask).await?;
    if let (None, Err(Failure::Host(HostError::AgentBusy | HostError::Unquiesced))) = (outcome.struck, &outcome.answer)
    {
        // An agent that a loaded machine keeps from answering; it runs on, and is asked again.
        world.tally.count("agent busy");
        return Ok(None);
    }
    let state = settled(world, subject, outcome.struck).await?;
    if outcome.struck.is_none() && outcome.answer.is_ok() && state != was {
        return Err(format!("it was {was:?} and is {state:?}"));
    }
    if was == State::Running {
        allowed(Deed::Snapshot, &outcome, state)?;
    } else if outcome.answer.is_err() {
        return Err(outcome.answer.err().map(|e| e.to_string()).unwrap_or_default());
    }
    let there = world.templates().await?.contains(&name);
    match (there, outcome.answer.is_ok()) {
        (false, true) => Err("it was answered and is not there".into()),
        (false, false) => Ok(None),
        (true, _) => Ok(Some(Kept { name, token: subject.request.secrets.token.clone(), ack })),
    }
}

/// Makes a sandbox from the template; a first one may be killed.
async fn copy(world: &mut World, plan: &Plan) -> Result<Subject, String> {
    let kept = world.kept.clone().ok_or("no template")?;
    let copy = world.wanted(Some(&kept));
    let ask = Ask::Create(ids::call(Incarnation::FIRST), copy.request.clone());
    let outcome = act(world, plan, Deed::Create, &copy, ask).await?;
    let killed = outcome.struck.filter(|_| outcome.answer.is_ok());
    let state = settled(world, &copy, killed).await?;
    match (outcome.struck, &outcome.answer, state) {
        (None, Err(error), _) => return Err(error.to_string()),
        (_, _, State::Running) => {}
        (Some(_), _, State::Gone) => {
            let copy = world.wanted(Some(&kept));
            world.create(&copy).await?;
            return Ok(copy);
        }
        (struck, answer, state) => {
            let answer = answer.as_ref().map(drop).map_err(ToString::to_string);
            return Err(format!("it is {state:?}, killed was {struck:?}, the answer {answer:?}"));
        }
    }
    Ok(copy)
}

/// Both hold what was acknowledged before, and go on, each its own way.
async fn apart(world: &mut World, subject: &Subject, copy: &Subject) -> Result<(), String> {
    let since = world.kept.as_ref().map_or(0, |kept| kept.ack);
    let begun = guest::acknowledged(&world.guest(copy)).await?;
    // At once: most of it is waiting for an emulated processor, and there are several.
    let (theirs, ours) = tokio::try_join!(world.progress(copy, begun + 1), world.progress(subject, begun + 1))?;
    let (ours_now, theirs_now) = (world.guest(subject), world.guest(copy));
    let asked = Instant::now();
    let (one, other) = tokio::try_join!(guest::look(&ours_now, since), guest::look(&theirs_now, since))?;
    one.holds(ours, What::All).map_err(|e| format!("what it was made of: {e}"))?;
    other.holds(theirs, What::All)?;
    world.pace.follow(subject.id.as_str(), &one, asked).map_err(|e| format!("what it was made of: {e}"))?;
    guest::parted(&one, &other)
}

/// Stops the host agent in an orderly way and starts it again.
async fn adopt(world: &mut World, plan: &Plan, subject: &Subject) -> Result<(), String> {
    let kill = plan.kill.filter(|kill| kill.deed == Deed::Adopt);
    let share = kill.map_or(0, |kill| kill.share);
    // In the first half while it stops, in the second while it starts.
    let stopping = Plan { kill: kill.filter(|_| share < STARTS), ..*plan };
    let mut outcome = act(world, &stopping, Deed::Adopt, subject, Ask::Stop { destroy: false }).await?;
    if outcome.struck != Some(Victim::Atoll) {
        world.gone().await?;
        world.spawn()?;
        if let Some(kill) = kill.filter(|_| share >= STARTS) {
            tokio::time::sleep(Duration::from_millis(u64::from(share - STARTS))).await;
            outcome.struck = slay(world, kill.victim, subject, || true).await;
            if kill.victim == Victim::Atoll {
                world.spawn()?;
            }
        }
        world.answers().await?;
    }
    let state = settled(world, subject, outcome.struck).await?;
    allowed(Deed::Adopt, &outcome, state)
}

async fn destroy(world: &World, subject: &Subject) -> Result<(), String> {
    let Some(now) = facts(world, subject).await? else { return Err("the copy is gone".into()) };
    let ask = Ask::Destroy(ids::call(now.incarnation), subject.id.clone());
    world.ask::<Value>(&ask).await.map(drop).map_err(|e| format!("destroy: {e}"))
}

/// One sandbox, one template, and the objects that they rest on.
async fn nothing_else(world: &World, subject: &Subject) -> Result<(), String> {
    let kept = world.kept.as_ref().map(|kept| kept.name.clone());
    until("nothing else to be there", || async {
        let ids: Vec<_> = world.list().await?.into_iter().map(|facts| facts.id).collect();
        let (templates, objects) = (world.templates().await?, world.objects());
        let directories = std::fs::read_dir(world.data().join("sandboxes")).map_or(0, Iterator::count);
        let fine = ids == [subject.id.clone()] && templates.iter().eq(kept.iter()) && objects <= 2 && directories == 1;
        if fine { Ok(()) } else { Err(format!("{ids:?}, {templates:?}, {objects} objects, {directories} directories")) }
    })
    .await
}
