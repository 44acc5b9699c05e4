//! A simulated host: everything of `HostDriver` in memory, with faults on demand.
//!
//! How it works: it keeps to the same rules as a real host (one sandbox per id, idempotent by operation and incarnation, a destroy
//! wins over a create under way, numbered events that are kept until they are acknowledged), because both are tried by the
//! same [`crate::conformance`]. Lifecycle calls run in tasks of the host's own, so that a caller that goes away changes nothing.
//!
//! Deliberately absent: VMs, time, persistence. It stands for a host that outlives the control plane.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atoll_control::ports::HostDriver;
use atoll_domain::host::{
    Call, CreateSandbox, Destroyed, EventSeq, HostCapacity, HostError, HostEvent, HostEventKind, HostSandboxState,
    MakeTemplate, PauseMode, ResumeSandbox, SandboxFacts, SandboxSecrets, TemplateFacts,
};
use atoll_domain::metrics::{Joined, Point, Rings, Tier};
use atoll_domain::record::Paused;
use atoll_domain::scrub::{Damage, Scrubbed};
use atoll_domain::ttl::Limits;
use atoll_domain::{OperationId, SandboxId, Shape};
use atoll_guest_client::{AGENT_PORT, GuestStream};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::faults::{Fault, Gate, Method, Plan};
use crate::sim_guest::SimGuest;
use crate::sim_life::{Answer, Life, SimTemplate, facts, with_faults, wrong};

const EVENTS: usize = 16;

/// How a host can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Up,
    Dead,
    Hung,
}

pub(crate) struct SimSandbox {
    call: Call,
    pub(crate) facts: SandboxFacts,
    pub(crate) shape: Shape,
    pub(crate) guest: Arc<SimGuest>,
    pub(crate) secrets: SandboxSecrets,
    created: watch::Sender<Answer<SandboxFacts>>,
    /// Ends its streams.
    pub(crate) ended: CancellationToken,
    rings: Rings,
    pub(crate) life: Life,
}

#[derive(Default)]
pub(crate) struct World {
    pub(crate) sandboxes: BTreeMap<SandboxId, SimSandbox>,
    /// Creates whose sandbox is gone, for replays.
    over: HashMap<OperationId, HostError>,
    pub(crate) templates: BTreeMap<String, SimTemplate>,
    /// What a scrub finds.
    pub(crate) spoiled: Vec<Damage>,
    events: Vec<HostEvent>,
    last: u64,
    plan: Plan,
    calls: HashMap<Method, usize>,
}

pub(crate) struct Inner {
    world: Mutex<World>,
    reach: watch::Sender<Reach>,
    news: watch::Sender<u64>,
    /// Changed when streams of events are to be cut.
    cut: watch::Sender<u64>,
    capacity: Mutex<HostCapacity>,
    pub(crate) tasks: TaskTracker,
}

/// A simulated host. Clones are handles to the same.
#[derive(Clone)]
pub struct SimHost(pub(crate) Arc<Inner>);

impl std::fmt::Debug for SimHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimHost").field("sandboxes", &self.world().sandboxes.len()).finish_non_exhaustive()
    }
}

impl Default for SimHost {
    fn default() -> Self {
        Self::new()
    }
}

pub(crate) fn unreachable_host() -> HostError {
    HostError::Unavailable("the simulated host is dead".into())
}

impl SimHost {
    /// A host without sandboxes that emulates, with 4 CPUs and 8 GiB.
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            world: Mutex::default(),
            reach: watch::Sender::new(Reach::Up),
            news: watch::Sender::new(0),
            cut: watch::Sender::new(0),
            capacity: Mutex::new(crate::ids::capacity()),
            tasks: TaskTracker::new(),
        }))
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.0.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plans a fault for the next call of a method that has none planned before it.
    pub fn plan(&self, method: Method, fault: Fault) {
        self.world().plan.add(method, fault);
    }

    /// Plans that the next call of a method waits before its effect.
    pub fn hold(&self, method: Method) -> Gate {
        let gate = Gate::new();
        self.plan(method, Fault::Hold(gate.clone()));
        gate
    }

    /// Plans that the next call of a method waits after its effect.
    pub fn hold_answer(&self, method: Method) -> Gate {
        let gate = Gate::new();
        self.plan(method, Fault::HoldAnswer(gate.clone()));
        gate
    }

    /// Makes it unreachable: calls are refused, event streams end; its sandboxes go on.
    pub fn die(&self) {
        self.0.reach.send_replace(Reach::Dead);
        self.0.cut.send_modify(|cut| *cut += 1);
    }

    /// Makes it answer nothing at all until it is woken.
    pub fn hang(&self) {
        self.0.reach.send_replace(Reach::Hung);
    }

    /// Makes it reachable again.
    pub fn wake(&self) {
        self.0.reach.send_replace(Reach::Up);
    }

    /// Ends a sandbox as if its VM had died, and tells of it through the event stream.
    pub fn end_sandbox(&self, id: &SandboxId, reason: &str) {
        let kind = HostEventKind::Ended { reason: reason.into() };
        if let Some(gone) = self.remove(id, HostError::WrongState { state: "stopped".into() }) {
            self.tell(id, gone.facts.incarnation, kind);
        }
    }

    /// Takes a sample of what a sandbox uses.
    pub fn sample(&self, id: &SandboxId, point: Point) {
        if let Some(sandbox) = self.world().sandboxes.get_mut(id) {
            sandbox.rings.push(point);
        }
    }

    /// A sandbox that a destroy could not give back whole: the next destroy can.
    pub fn stick(&self, id: &SandboxId) {
        if let Some(sandbox) = self.world().sandboxes.get_mut(id) {
            sandbox.facts.state = HostSandboxState::Stuck;
        }
    }

    /// Loses a sandbox without a word.
    pub fn lose_sandbox(&self, id: &SandboxId) {
        self.remove(id, HostError::WrongState { state: "stopped".into() });
    }

    /// Tells something about a sandbox through the event stream.
    pub fn tell(&self, id: &SandboxId, incarnation: atoll_domain::Incarnation, kind: HostEventKind) {
        let mut world = self.world();
        world.last += 1;
        let seq = EventSeq(world.last);
        world.events.push(HostEvent { seq, sandbox: id.clone(), incarnation, kind });
        drop(world);
        self.0.news.send_replace(seq.0);
    }

    /// The sandboxes that it has.
    pub fn sandboxes(&self) -> Vec<SandboxId> {
        self.world().sandboxes.keys().cloned().collect()
    }

    /// How often a method was called.
    pub fn calls(&self, method: Method) -> usize {
        self.world().calls.get(&method).copied().unwrap_or_default()
    }

    /// How many events it still keeps.
    pub fn kept_events(&self) -> usize {
        self.world().events.len()
    }

    /// Changes what it can take, besides what its own sandboxes are promised.
    pub fn set_capacity(&self, change: impl FnOnce(&mut HostCapacity)) {
        change(&mut self.0.capacity.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What it can take, beside what every sandbox that is not paused was promised.
    fn capacity_now(&self) -> HostCapacity {
        let mut capacity = self.0.capacity.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for sandbox in self.world().sandboxes.values().filter(|s| s.facts.state != HostSandboxState::Paused) {
            let memory_mb = u64::from(sandbox.shape.memory_mb);
            capacity.room.promised_mb += memory_mb;
            if sandbox.facts.limits.lifetime.may_pause() {
                capacity.room.pause_mb += memory_mb;
            }
        }
        capacity
    }

    fn remove(&self, id: &SandboxId, why: HostError) -> Option<SimSandbox> {
        let mut world = self.world();
        let gone = world.sandboxes.remove(id)?;
        world.over.insert(gone.call.operation.clone(), why.clone());
        gone.ended.cancel();
        gone.life.end(&why);
        if gone.created.borrow().is_none() {
            gone.created.send_replace(Some(Err(why)));
        }
        Some(gone)
    }

    /// What every call begins with.
    pub(crate) async fn enter(&self, method: Method) -> Result<Option<Fault>, HostError> {
        *self.world().calls.entry(method).or_default() += 1;
        let mut reach = self.0.reach.subscribe();
        let now = *reach.wait_for(|reach| *reach != Reach::Hung).await.map_err(|_| unreachable_host())?;
        if now == Reach::Dead {
            return Err(unreachable_host());
        }
        let fault = self.world().plan.take(method);
        match fault {
            Some(Fault::Refuse(error)) => Err(error),
            other => Ok(other),
        }
    }

    /// Runs a call's effect in a task of the host's own, with its faults around it.
    async fn carry_out<T, F>(&self, method: Method, effect: impl FnOnce(Self) -> F) -> Result<T, HostError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, HostError>> + Send + 'static,
    {
        let fault = self.enter(method).await?;
        let effect = effect(self.clone());
        let task = self.0.tasks.spawn(async move {
            if let Some(Fault::Hold(gate)) = &fault {
                gate.pass().await;
            }
            with_faults(fault, effect.await).await
        });
        task.await.unwrap_or_else(|_| Err(unreachable_host()))
    }

    fn found<T>(&self, id: &SandboxId, look: impl FnOnce(&SimSandbox) -> T) -> Result<T, HostError> {
        self.world().sandboxes.get(id).map(look).ok_or(HostError::NotFound)
    }

    /// Begins a create or joins the one that is meant.
    fn begin_create(
        &self,
        call: &Call,
        request: CreateSandbox,
    ) -> Result<(watch::Receiver<Answer<SandboxFacts>>, bool), HostError> {
        let files = request.spec.snapshot.as_deref().map(|id| self.files_of_template(id)).transpose()?;
        let mut world = self.world();
        if let Some(why) = world.over.get(&call.operation) {
            return Err(why.clone());
        }
        let id = request.spec.id.clone();
        match world.sandboxes.get(&id) {
            Some(sandbox) if sandbox.call == *call => return Ok((sandbox.created.subscribe(), false)),
            Some(_) => return Err(HostError::WrongState { state: "there already".into() }),
            None => {}
        }
        let (created, seen) = watch::channel(None);
        let sandbox = SimSandbox {
            call: call.clone(),
            facts: facts(&id, call, Limits { lifetime: request.spec.lifetime, revision: 0 }),
            shape: request.spec.shape,
            guest: Arc::new(SimGuest::new(request.secrets.clone(), files.unwrap_or_default())),
            secrets: request.secrets,
            created,
            ended: CancellationToken::new(),
            rings: Rings::default(),
            life: Life::new(),
        };
        world.sandboxes.insert(id, sandbox);
        Ok((seen, true))
    }

    fn finish_create(&self, id: &SandboxId, call: &Call) {
        if let Some(sandbox) = self.world().sandboxes.get_mut(id).filter(|sandbox| sandbox.call == *call) {
            sandbox.facts.state = HostSandboxState::Running;
            sandbox.created.send_replace(Some(Ok(sandbox.facts.clone())));
        }
    }

    async fn create_inner(self, call: Call, request: CreateSandbox) -> Result<SandboxFacts, HostError> {
        let fault = self.enter(Method::Create).await?;
        let id = request.spec.id.clone();
        let begun = self.begin_create(&call, request)?;
        self.bring(fault, begun, move |host| host.finish_create(&id, &call)).await
    }

    fn destroy_now(&self, call: &Call, id: &SandboxId) -> Result<Destroyed, HostError> {
        match self.found(id, |sandbox| sandbox.facts.incarnation) {
            Err(_) => return Ok(Destroyed::NotFound),
            Ok(current) if call.incarnation < current => {
                return Err(HostError::WrongState { state: format!("in its life {current}") });
            }
            Ok(_) => {}
        }
        let gone = self.remove(id, HostError::WrongState { state: "destroyed".into() });
        Ok(if gone.is_some() { Destroyed::Done } else { Destroyed::NotFound })
    }

    fn follow(&self, from: EventSeq) -> mpsc::Receiver<HostEvent> {
        let (sender, receiver) = mpsc::channel(EVENTS);
        let (host, mut news, mut cut) = (self.clone(), self.0.news.subscribe(), self.0.cut.subscribe());
        cut.mark_unchanged();
        self.0.tasks.spawn(async move {
            let mut last = from;
            let follow = async {
                loop {
                    news.mark_unchanged();
                    let fresh: Vec<_> = host.world().events.iter().filter(|event| event.seq > last).cloned().collect();
                    for event in fresh {
                        last = event.seq;
                        if sender.send(event).await.is_err() {
                            return;
                        }
                    }
                    if news.changed().await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = follow => {}
                () = sender.closed() => {}
                _ = cut.changed() => {}
            }
        });
        receiver
    }
}

impl HostDriver for SimHost {
    fn create(&self, call: Call, request: CreateSandbox) -> BoxFuture<'_, Result<SandboxFacts, HostError>> {
        self.clone().create_inner(call, request).boxed()
    }

    fn destroy(&self, call: Call, id: SandboxId) -> BoxFuture<'_, Result<Destroyed, HostError>> {
        self.carry_out(Method::Destroy, |host| async move { host.destroy_now(&call, &id) }).boxed()
    }

    fn pause(&self, call: Call, id: SandboxId, mode: PauseMode) -> BoxFuture<'_, Result<Paused, HostError>> {
        self.clone().pause_inner(call, id, mode).boxed()
    }

    fn resume(
        &self,
        call: Call,
        id: SandboxId,
        request: ResumeSandbox,
    ) -> BoxFuture<'_, Result<SandboxFacts, HostError>> {
        self.clone().resume_inner(call, id, request).boxed()
    }

    fn make_template(
        &self,
        call: Call,
        id: SandboxId,
        request: MakeTemplate,
    ) -> BoxFuture<'_, Result<TemplateFacts, HostError>> {
        let make = |host: Self| async move { host.make_template_now(&call, &id, &request) };
        self.carry_out(Method::MakeTemplate, make).boxed()
    }

    fn drop_template(&self, template: String) -> BoxFuture<'_, Result<(), HostError>> {
        let drop = |host: Self| async move {
            host.drop_template_now(&template);
            Ok(())
        };
        self.carry_out(Method::DropTemplate, drop).boxed()
    }

    fn templates(&self) -> BoxFuture<'_, Result<Vec<String>, HostError>> {
        self.carry_out(Method::Templates, |host| async move { Ok(host.template_ids()) }).boxed()
    }

    fn set_lifetime(&self, id: SandboxId, limits: Limits) -> BoxFuture<'_, Result<(), HostError>> {
        let set = move |host: Self| async move { host.set_lifetime_now(&id, limits) };
        self.carry_out(Method::SetLifetime, set).boxed()
    }

    fn touch(&self, ids: Vec<SandboxId>) -> BoxFuture<'_, Result<(), HostError>> {
        let touch = |host: Self| async move {
            host.touch_now(&ids);
            Ok(())
        };
        self.carry_out(Method::Touch, touch).boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<SandboxFacts>, HostError>> {
        let look = |host: Self| async move { Ok(host.world().sandboxes.values().map(|s| s.facts.clone()).collect()) };
        self.carry_out(Method::List, look).boxed()
    }

    fn inspect(&self, id: SandboxId) -> BoxFuture<'_, Result<SandboxFacts, HostError>> {
        let look = |host: Self| async move { host.found(&id, |sandbox| sandbox.facts.clone()) };
        self.carry_out(Method::Inspect, look).boxed()
    }

    fn secrets(&self, id: SandboxId) -> BoxFuture<'_, Result<SandboxSecrets, HostError>> {
        let look = |host: Self| async move { host.found(&id, |sandbox| sandbox.secrets.clone()) };
        self.carry_out(Method::Secrets, look).boxed()
    }

    fn console(&self, id: SandboxId) -> BoxFuture<'_, Result<Vec<u8>, HostError>> {
        let look = |host: Self| async move {
            match host.found(&id, |sandbox| sandbox.facts.state)? {
                HostSandboxState::Running => Ok(b"atoll: simulated\r\n".to_vec()),
                state => Err(wrong(state)),
            }
        };
        self.carry_out(Method::Console, look).boxed()
    }

    fn watch(&self, from: EventSeq) -> BoxFuture<'_, Result<mpsc::Receiver<HostEvent>, HostError>> {
        self.carry_out(Method::Watch, move |host| async move { Ok(host.follow(from)) }).boxed()
    }

    fn latest_event(&self) -> BoxFuture<'_, Result<EventSeq, HostError>> {
        self.carry_out(Method::LatestEvent, |host| async move { Ok(EventSeq(host.world().last)) }).boxed()
    }

    fn acknowledge(&self, seq: EventSeq) -> BoxFuture<'_, Result<(), HostError>> {
        let forget = move |host: Self| async move {
            host.world().events.retain(|event| event.seq > seq);
            Ok(())
        };
        self.carry_out(Method::Acknowledge, forget).boxed()
    }

    fn open_stream(&self, id: SandboxId, port: u16) -> BoxFuture<'_, Result<GuestStream, HostError>> {
        let open = move |host: Self| async move {
            let (state, guest, ended) = host.found(&id, |s| (s.facts.state, Arc::clone(&s.guest), s.ended.clone()))?;
            match (state, port) {
                (HostSandboxState::Running, AGENT_PORT) => Ok(guest.connect(&host.0.tasks, &ended)),
                (HostSandboxState::Running, _) => Err(HostError::Unavailable(format!("port {port} of the guest"))),
                (state, _) => Err(wrong(state)),
            }
        };
        self.carry_out(Method::OpenStream, open).boxed()
    }

    fn metrics(&self, id: SandboxId, tier: Tier) -> BoxFuture<'_, Result<Vec<Point>, HostError>> {
        let look = move |host: Self| async move { host.found(&id, |sandbox| sandbox.rings.points(tier)) };
        self.carry_out(Method::Metrics, look).boxed()
    }

    fn flush_metrics(&self, id: SandboxId) -> BoxFuture<'_, Result<Vec<Joined>, HostError>> {
        let flush = |host: Self| async move {
            let mut world = host.world();
            let sandbox = world.sandboxes.get_mut(&id).ok_or(HostError::NotFound)?;
            sandbox.rings.close_partial();
            Ok(sandbox.rings.all())
        };
        self.carry_out(Method::FlushMetrics, flush).boxed()
    }

    fn scrub(&self) -> BoxFuture<'_, Result<Scrubbed, HostError>> {
        self.carry_out(Method::Scrub, |host| async move { Ok(host.scrub_now()) }).boxed()
    }

    fn capacity(&self) -> BoxFuture<'_, Result<HostCapacity, HostError>> {
        self.carry_out(Method::Capacity, |host| async move { Ok(host.capacity_now()) }).boxed()
    }
}
