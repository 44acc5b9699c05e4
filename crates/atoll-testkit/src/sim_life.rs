//! The life of a simulated host's sandboxes: pause, resume, templates, limits, uses.
//!
//! How it works: as on a real host, who asks for what is under way joins it, who asks for the opposite is refused with the state, and a
//! destroy answers everybody who waits. "Memory" is the simulated guest itself: its files are there again after a resume, and a copy
//! of them in every sandbox that starts from a template.
//!
//! Deliberately absent: time. A limit is reached when a test says so ([`SimHost::expire`]).

use atoll_domain::host::{
    Call, HostError, HostEventKind, HostSandboxState, MakeTemplate, PauseMode, Phase, ResumeSandbox, SandboxFacts,
    TemplateFacts,
};
use atoll_domain::record::Paused;
use atoll_domain::scrub::{Damage, DamageKind, Scrubbed};
use atoll_domain::snapshot::MemoryReason;
use atoll_domain::ttl::{Cause, Lifetime, Limits};
use atoll_domain::{Incarnation, SandboxId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::faults::{Fault, Method};
use crate::sim_host::{SimHost, SimSandbox, unreachable_host};

/// Pages of one snapshot.
const BYTES: u64 = 4 << 20;
const STOOD_STILL: u64 = 1500;

/// The answer that everybody waits for who asked for the same.
pub(crate) type Answer<T> = Option<Result<T, HostError>>;

/// What a call found: the answer, or somebody to wait for.
enum Begun<T> {
    Answered(T),
    /// With the sender, if it is this call's to bring the answer.
    Wait(watch::Receiver<Answer<T>>, bool),
}

/// A template.
#[derive(Debug, Clone)]
pub(crate) struct SimTemplate {
    facts: TemplateFacts,
    files: crate::sim_guest::Files,
}

/// What of a sandbox is about its life.
#[derive(Debug)]
pub(crate) struct Life {
    pausing: watch::Sender<Answer<Paused>>,
    resuming: watch::Sender<Answer<SandboxFacts>>,
    uses: usize,
    unquiesced: bool,
}

impl Life {
    pub(crate) fn new() -> Self {
        Self { pausing: watch::Sender::new(None), resuming: watch::Sender::new(None), uses: 0, unquiesced: false }
    }

    /// It is gone: whoever waits is told.
    pub(crate) fn end(&self, why: &HostError) {
        self.pausing.send_replace(Some(Err(why.clone())));
        self.resuming.send_replace(Some(Err(why.clone())));
    }
}

pub(crate) fn wrong(state: HostSandboxState) -> HostError {
    HostError::WrongState { state: format!("{state:?}").to_lowercase() }
}

fn stale(current: Incarnation) -> HostError {
    HostError::WrongState { state: format!("in its life {current}") }
}

/// What is said of a sandbox whose life begins.
pub(crate) fn facts(id: &SandboxId, call: &Call, limits: Limits) -> SandboxFacts {
    SandboxFacts {
        id: id.clone(),
        incarnation: call.incarnation,
        state: HostSandboxState::Starting,
        directory: format!("/simulated/{id}"),
        keeper_pid: None,
        vmm_pid: None,
        netns: None,
        interface: None,
        host_ip: Some("10.0.0.2".into()),
        guest_ip: Some("172.16.0.2".into()),
        uid: None,
        paused: None,
        limits,
        phases: vec![Phase { name: "simulated".into(), micros: 1 }],
    }
}

/// Why there is no memory of a paused one.
fn none_is_kept(paused: &Paused) -> MemoryReason {
    if paused.memory_lost { MemoryReason::Lost } else { MemoryReason::DiskOnly }
}

impl SimSandbox {
    /// Puts it on disk; its streams end.
    fn put_to_disk(&mut self, mode: PauseMode, at: i64) -> Paused {
        let generation = (mode == PauseMode::Memory).then(|| format!("{}-{}", self.facts.id, self.facts.incarnation));
        let paused = Paused { at, generation, quiesced: !self.life.unquiesced, bytes: BYTES, memory_lost: false };
        self.facts.state = HostSandboxState::Paused;
        self.facts.paused = Some(paused.clone());
        (self.facts.host_ip, self.facts.guest_ip) = (None, None);
        std::mem::replace(&mut self.ended, CancellationToken::new()).cancel();
        paused
    }
}

/// Waits for an answer that this call, or another, brings.
async fn wait<T: Clone>(mut wait: watch::Receiver<Answer<T>>) -> Result<T, HostError> {
    let answer = wait.wait_for(Option::is_some).await.map(|answer| answer.clone());
    answer.ok().flatten().unwrap_or_else(|| Err(unreachable_host()))
}

/// What a fault makes of an answer.
pub(crate) async fn with_faults<T>(fault: Option<Fault>, answer: Result<T, HostError>) -> Result<T, HostError> {
    match fault {
        Some(Fault::HoldAnswer(gate)) => gate.pass().await,
        Some(Fault::LoseReply) => return Err(HostError::Unavailable("the answer was lost".into())),
        _ => {}
    }
    answer
}

impl SimHost {
    /// One of a sandbox's limits is reached: the host pauses it by itself and tells of it.
    pub fn expire(&self, id: &SandboxId, cause: Cause) {
        let paused = {
            let mut world = self.world();
            let sandbox = world.sandboxes.get_mut(id).expect("the sandbox is there");
            (sandbox.facts.incarnation, sandbox.put_to_disk(PauseMode::Memory, 1))
        };
        self.tell(id, paused.0, HostEventKind::Paused { paused: paused.1, cause: Some(cause) });
    }

    /// Makes the agent of a sandbox one that does not answer when it is paused.
    pub fn make_unquiesced(&self, id: &SandboxId) {
        self.world().sandboxes.get_mut(id).expect("the sandbox is there").life.unquiesced = true;
    }

    /// What a resume does whose guest begins to run and never answers: only the disk of a paused sandbox is left.
    pub fn lose_memory(&self, id: &SandboxId) {
        let mut world = self.world();
        let sandbox = world.sandboxes.get_mut(id).expect("the sandbox is there");
        let paused = sandbox.facts.paused.as_mut().expect("it is paused");
        (paused.generation, paused.memory_lost) = (None, true);
    }

    /// The limits that it keeps to for a sandbox.
    pub fn lifetime_of(&self, id: &SandboxId) -> Option<Lifetime> {
        self.world().sandboxes.get(id).map(|sandbox| sandbox.facts.limits.lifetime)
    }

    /// How often it was told that a sandbox is used.
    pub fn uses_of(&self, id: &SandboxId) -> usize {
        self.world().sandboxes.get(id).map_or(0, |sandbox| sandbox.life.uses)
    }

    /// The templates that it keeps.
    pub fn template_ids(&self) -> Vec<String> {
        self.world().templates.keys().cloned().collect()
    }

    /// The files that a sandbox begins with.
    pub(crate) fn files_of_template(&self, id: &str) -> Result<crate::sim_guest::Files, HostError> {
        let world = self.world();
        let known = || world.templates.keys().cloned().collect::<Vec<_>>().join(", ");
        let unknown = || HostError::UnknownTemplate { name: id.into(), known: known() };
        world.templates.get(id).map(|template| template.files.clone()).ok_or_else(unknown)
    }

    fn begin_pause(&self, call: &Call, id: &SandboxId) -> Result<Begun<Paused>, HostError> {
        let mut world = self.world();
        let sandbox = world.sandboxes.get_mut(id).ok_or(HostError::NotFound)?;
        if call.incarnation != sandbox.facts.incarnation {
            return Err(stale(sandbox.facts.incarnation));
        }
        match sandbox.facts.state {
            HostSandboxState::Running => {
                sandbox.facts.state = HostSandboxState::Pausing;
                sandbox.life.pausing = watch::Sender::new(None);
                Ok(Begun::Wait(sandbox.life.pausing.subscribe(), true))
            }
            HostSandboxState::Pausing => Ok(Begun::Wait(sandbox.life.pausing.subscribe(), false)),
            HostSandboxState::Paused => sandbox
                .facts
                .paused
                .clone()
                .map(Begun::Answered)
                .ok_or_else(|| HostError::Failed("nothing kept".into())),
            state => Err(wrong(state)),
        }
    }

    fn finish_pause(&self, call: &Call, id: &SandboxId, mode: PauseMode) {
        let mut world = self.world();
        let current = world.sandboxes.get_mut(id);
        if let Some(sandbox) = current.filter(|s| s.facts.state == HostSandboxState::Pausing) {
            let paused = sandbox.put_to_disk(mode, i64::try_from(call.incarnation.0).unwrap_or(i64::MAX));
            sandbox.life.pausing.send_replace(Some(Ok(paused)));
        }
    }

    /// Brings the answer of a call in a task of the host's own, if it is this call's to bring, and waits for it.
    pub(crate) async fn bring<T: Clone>(
        &self,
        fault: Option<Fault>,
        (waiting, mine): (watch::Receiver<Answer<T>>, bool),
        finish: impl FnOnce(&Self) + Send + 'static,
    ) -> Result<T, HostError> {
        if mine {
            let (host, fault) = (self.clone(), fault.clone());
            self.0.tasks.spawn(async move {
                if let Some(Fault::Hold(gate)) = fault {
                    gate.pass().await;
                }
                finish(&host);
            });
        }
        let answer = wait(waiting).await;
        with_faults(fault, answer).await
    }

    pub(crate) async fn pause_inner(self, call: Call, id: SandboxId, mode: PauseMode) -> Result<Paused, HostError> {
        let fault = self.enter(Method::Pause).await?;
        match self.begin_pause(&call, &id)? {
            Begun::Answered(paused) => with_faults(fault, Ok(paused)).await,
            Begun::Wait(waiting, mine) => {
                self.bring(fault, (waiting, mine), move |host| host.finish_pause(&call, &id, mode)).await
            }
        }
    }

    fn begin_resume(&self, call: &Call, id: &SandboxId, mode: PauseMode) -> Result<Begun<SandboxFacts>, HostError> {
        let mut world = self.world();
        let sandbox = world.sandboxes.get_mut(id).ok_or(HostError::NotFound)?;
        let current = sandbox.facts.incarnation;
        match sandbox.facts.state {
            HostSandboxState::Running if call.incarnation == current => Ok(Begun::Answered(sandbox.facts.clone())),
            HostSandboxState::Paused if call.incarnation <= current => Err(stale(current)),
            HostSandboxState::Paused => {
                let kept = sandbox.facts.paused.as_ref().is_some_and(|paused| paused.generation.is_some());
                if mode == PauseMode::Memory && !kept {
                    let why = sandbox.facts.paused.as_ref().map_or(MemoryReason::DiskOnly, none_is_kept);
                    return Err(HostError::MemoryUnusable(why));
                }
                sandbox.facts.state = HostSandboxState::Resuming;
                sandbox.life.resuming = watch::Sender::new(None);
                Ok(Begun::Wait(sandbox.life.resuming.subscribe(), true))
            }
            HostSandboxState::Resuming => Ok(Begun::Wait(sandbox.life.resuming.subscribe(), false)),
            state => Err(wrong(state)),
        }
    }

    fn finish_resume(&self, call: &Call, id: &SandboxId, request: ResumeSandbox) {
        let mut world = self.world();
        let current = world.sandboxes.get_mut(id);
        if let Some(sandbox) = current.filter(|s| s.facts.state == HostSandboxState::Resuming) {
            let fresh = facts(id, call, sandbox.facts.limits);
            sandbox.facts = SandboxFacts { state: HostSandboxState::Running, ..fresh };
            sandbox.guest = std::sync::Arc::new(sandbox.guest.resumed(request.secrets.clone()));
            sandbox.secrets = request.secrets;
            sandbox.life.resuming.send_replace(Some(Ok(sandbox.facts.clone())));
        }
    }

    pub(crate) async fn resume_inner(
        self,
        call: Call,
        id: SandboxId,
        request: ResumeSandbox,
    ) -> Result<SandboxFacts, HostError> {
        let fault = self.enter(Method::Resume).await?;
        match self.begin_resume(&call, &id, request.mode)? {
            Begun::Answered(facts) => with_faults(fault, Ok(facts)).await,
            Begun::Wait(waiting, mine) => {
                self.bring(fault, (waiting, mine), move |host| host.finish_resume(&call, &id, request)).await
            }
        }
    }

    pub(crate) fn make_template_now(
        &self,
        call: &Call,
        id: &SandboxId,
        request: &MakeTemplate,
    ) -> Result<TemplateFacts, HostError> {
        let mut world = self.world();
        let sandbox = world.sandboxes.get(id).ok_or(HostError::NotFound)?;
        if call.incarnation != sandbox.facts.incarnation {
            return Err(stale(sandbox.facts.incarnation));
        }
        let is_there = matches!(sandbox.facts.state, HostSandboxState::Running | HostSandboxState::Paused);
        if let Some(made) = world.templates.get(&request.template).filter(|_| is_there) {
            return Ok(made.facts.clone());
        }
        match (sandbox.facts.state, &sandbox.facts.paused) {
            (HostSandboxState::Running, _) if sandbox.life.unquiesced => return Err(HostError::AgentBusy),
            (HostSandboxState::Paused, Some(paused)) if !paused.quiesced => return Err(HostError::Unquiesced),
            (HostSandboxState::Paused, Some(paused)) if paused.generation.is_none() => {
                return Err(HostError::MemoryUnusable(none_is_kept(paused)));
            }
            (HostSandboxState::Running | HostSandboxState::Paused, _) => {}
            (state, _) => return Err(wrong(state)),
        }
        let (template, shape) = (request.template.clone(), sandbox.shape);
        let facts = TemplateFacts { template, shape, bytes: BYTES, stood_still_micros: STOOD_STILL };
        let made = SimTemplate { facts: facts.clone(), files: sandbox.guest.all_files() };
        world.templates.insert(request.template.clone(), made);
        Ok(facts)
    }

    pub(crate) fn drop_template_now(&self, template: &str) {
        self.world().templates.remove(template);
    }

    /// Lets scrubs find something that is damaged, as long as it is there.
    pub fn spoil(&self, kind: DamageKind, id: &str, reason: &str) {
        self.world().spoiled.push(Damage { kind, id: id.into(), reason: reason.into() });
    }

    pub(crate) fn scrub_now(&self) -> Scrubbed {
        let world = self.world();
        let is_paused =
            |id: &str| world.sandboxes.values().any(|s| s.facts.id.as_str() == id && s.facts.paused.is_some());
        let there = |damage: &&Damage| match damage.kind {
            DamageKind::Template => world.templates.contains_key(&damage.id),
            DamageKind::Sandbox => is_paused(&damage.id),
            DamageKind::Golden => true,
        };
        let paused = world.sandboxes.values().filter(|sandbox| sandbox.facts.paused.is_some()).count();
        let files = (world.templates.len() + paused) as u64;
        let mut damaged: Vec<Damage> = world.spoiled.iter().filter(there).cloned().collect();
        damaged.sort();
        Scrubbed { files, bytes: files * BYTES, damaged }
    }

    pub(crate) fn set_lifetime_now(&self, id: &SandboxId, limits: Limits) -> Result<(), HostError> {
        let mut world = self.world();
        let sandbox = world.sandboxes.get_mut(id).ok_or(HostError::NotFound)?;
        if limits.supersede(&sandbox.facts.limits) {
            sandbox.facts.limits = limits;
            sandbox.life.uses += 1;
        }
        Ok(())
    }

    pub(crate) fn touch_now(&self, ids: &[SandboxId]) {
        let mut world = self.world();
        for id in ids {
            if let Some(sandbox) = world.sandboxes.get_mut(id) {
                sandbox.life.uses += 1;
            }
        }
    }
}
