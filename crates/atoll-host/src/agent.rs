//! The host agent: the handle that the rest of Atoll holds.
//!
//! How it works: a map from sandbox to its actor's mailbox, and what all actors share. Calls are idempotent: a create with the same
//! operation joins the first one, a destroy of what is not there answers so. Actors are tracked tasks; [`HostAgent::shutdown`]
//! ends and awaits every one of them.
//!
//! Deliberately absent: doing anything to a sandbox outside of its actor.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use atoll_domain::actor::Origin;
use atoll_domain::host::{
    Call, CreateSandbox, Destroyed, EventSeq, HostCapacity, HostError, HostEvent, HostEventKind, HostSandboxState,
    SandboxFacts, SandboxSecrets, SandboxSpec,
};
use atoll_domain::metrics::{Joined, Point, Tier};
use atoll_domain::validate::HostLimits;
use atoll_domain::{Incarnation, SandboxId};
use atoll_guest_client::GuestStream;
use atoll_net::{NetConfig, NetError, NetPlan, Slots, choose_pool, plan};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::actor::{Actor, Handle, Message};
use crate::data_dir::{DataDir, Lock};
use crate::dial::Sockets;
use crate::error::{failed, join_failed};
use crate::events::Events;
use crate::journal::{Entry, Journal};
use crate::metrics::{Metrics, Target};
use crate::ready::{Readiness, Ready};
use crate::recovery::Found;
use crate::{HostConfig, StartError, Step, admission, recovery};

/// How many creates whose sandbox is gone are remembered for replays.
const REMEMBERED: usize = 256;
const EVENTS: usize = 64;
/// How long a start waits for keepers; one answers within milliseconds, or hangs.
const ADOPTION_LIMIT: Duration = Duration::from_secs(3);
/// How long an asker waits for an adoption; a keeper that hangs is given up before.
const SECRETS_LIMIT: Duration = Duration::from_secs(20);
/// The tick of all sandboxes' metrics.
const SAMPLE: Duration = Duration::from_millis(atoll_domain::metrics::SAMPLE_MS);
const DIAL_LIMIT: Duration = Duration::from_secs(10);

/// What an orderly stop does with running sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExit {
    /// Ends them all and leaves nothing of the instance.
    Destroy,
    /// Leaves them running; the next start takes them over. What is half made is given back.
    Keep,
}

/// What all actors share.
pub(crate) struct Shared {
    pub(crate) config: HostConfig,
    pub(crate) data: DataDir,
    pub(crate) net: NetConfig,
    pub(crate) slots: Slots,
    pub(crate) keeper: PathBuf,
    pub(crate) void_netns: PathBuf,
    pub(crate) boots: Semaphore,
    pub(crate) stopping: CancellationToken,
    /// No new sandbox from now on; changed under the map's lock.
    closing: AtomicBool,
    readiness: Readiness,
    events: Events,
    metrics: Arc<Metrics>,
    sandboxes: Mutex<HashMap<SandboxId, Handle>>,
    failed: Mutex<VecDeque<(SandboxId, Call, HostError)>>,
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change under these locks is one insert or remove; a panic leaves the map whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) async fn ready(&self) -> Result<Arc<Ready>, HostError> {
        self.readiness.get(&self.config, &self.stopping).await
    }

    /// The network plan of a sandbox; claims its slot.
    pub(crate) fn plan(&self, spec: &SandboxSpec) -> Result<NetPlan, NetError> {
        Step::SlotClaim.before();
        let slot = self.slots.claim(&self.net.instance, &spec.id, self.net.pool.slots())?;
        Step::SlotClaim.after();
        Ok(plan(&self.net, slot, spec.network))
    }

    /// The same, if it has a slot.
    pub(crate) fn existing_plan(&self, spec: &SandboxSpec) -> Result<Option<NetPlan>, NetError> {
        let mine = self.slots.of_instance(&self.net.instance)?;
        let slot = mine.into_iter().find(|(_, id)| *id == spec.id).map(|(slot, _)| slot);
        Ok(slot.map(|slot| plan(&self.net, slot, spec.network)))
    }

    /// What is sampled: every VM that runs.
    fn targets(&self) -> Vec<Target> {
        let sandboxes = held(&self.sandboxes);
        let target = |(id, handle): (&SandboxId, &Handle)| {
            let facts = handle.facts.borrow();
            let vmm_pid = facts.vmm_pid.filter(|_| facts.state == HostSandboxState::Running)?;
            Some(Target { id: id.clone(), dir: (&facts.directory).into(), vmm_pid, vcpus: handle.vcpus })
        };
        sandboxes.iter().filter_map(target).collect()
    }

    /// Memory promised to all other sandboxes, in MiB.
    pub(crate) fn promised_mb(&self, but: &SandboxId) -> u64 {
        held(&self.sandboxes).iter().filter(|(id, _)| *id != but).map(|(_, handle)| u64::from(handle.memory_mb)).sum()
    }

    pub(crate) fn forget(&self, id: &SandboxId) {
        held(&self.sandboxes).remove(id);
    }

    /// Keeps what a create whose sandbox is gone, or never was, answers to replays of its call.
    pub(crate) fn remember(&self, id: &SandboxId, call: &Call, error: HostError) {
        let mut failed = held(&self.failed);
        failed.push_back((id.clone(), call.clone(), error));
        if failed.len() > REMEMBERED {
            failed.pop_front();
        }
    }

    /// Tells something through the event stream; written down in the sandbox's journal first.
    pub(crate) async fn tell(
        self: &Arc<Self>,
        dir: &Path,
        id: &SandboxId,
        incarnation: Incarnation,
        kind: HostEventKind,
    ) -> Result<(), HostError> {
        let (shared, dir, id) = (Arc::clone(self), dir.to_owned(), id.clone());
        let told = tokio::task::spawn_blocking(move || shared.tell_blocking(&dir, &id, incarnation, kind)).await;
        told.map_err(join_failed)?.map_err(|e| failed(&e))
    }

    /// The same, where blocking is allowed.
    pub(crate) fn tell_blocking(
        &self,
        dir: &Path,
        id: &SandboxId,
        incarnation: Incarnation,
        kind: HostEventKind,
    ) -> std::io::Result<()> {
        let mut journal = Journal::open(dir)?;
        self.events.note(id, incarnation, kind, |event| journal.write(&Entry::Told(event.clone())))
    }

    /// Puts an event into the stream that a crash kept from it.
    pub(crate) fn restore_event(&self, event: &HostEvent) -> std::io::Result<bool> {
        self.events.restore(event)
    }
}

/// A host agent. Clones are handles to the same.
#[derive(Clone)]
pub struct HostAgent {
    shared: Arc<Shared>,
    tasks: TaskTracker,
    _lock: Arc<Lock>,
}

impl std::fmt::Debug for HostAgent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostAgent").field("data", &self.shared.data.root()).finish_non_exhaustive()
    }
}

impl HostAgent {
    /// Starts on an opened data directory: sets the host's network up, takes over what an earlier Atoll left running, gives back
    /// what it left half made, and begins to make images ready in the background.
    ///
    /// # Errors
    /// What keeps it from starting.
    pub async fn start(config: HostConfig, data: DataDir, lock: Lock) -> Result<Self, StartError> {
        if config.keeper.is_empty() || config.guest.is_empty() {
            return Err(StartError::Incomplete);
        }
        if !nix::unistd::geteuid().is_root() {
            return Err(StartError::NeedsRoot);
        }
        let begun = tokio::task::spawn_blocking(move || begin(config, data)).await;
        let stopped = |e| StartError::file("start on", "the data directory")(std::io::Error::other(e));
        let (shared, found) = begun.map_err(stopped)??;
        let shared = Arc::new(shared);
        let tasks = TaskTracker::new();
        let agent = Self { shared: Arc::clone(&shared), tasks: tasks.clone(), _lock: Arc::new(lock) };
        agent.take_over(found).await;
        tasks.spawn(async move {
            let ready = shared.stopping.run_until_cancelled(shared.ready()).await;
            if let Some(Err(error)) = ready {
                tracing::error!(%error, "images could not be made ready; the next create tries again");
            }
        });
        tasks.spawn(sample(Arc::clone(&agent.shared)));
        Ok(agent)
    }

    /// Gives each found sandbox its actor, and waits a while until those that can be adopted are.
    async fn take_over(&self, found: Vec<Found>) {
        let mut handles = Vec::new();
        for Found { call, spec, origin, reason } in found {
            let id = spec.id.clone();
            let (actor, handle) = Actor::new(Arc::clone(&self.shared), call, spec, None, origin);
            let actor = match reason {
                Some(reason) => actor.ended_because(reason),
                None => actor,
            };
            if origin == Origin::Running {
                handles.push(handle.clone());
            }
            held(&self.shared.sandboxes).insert(id, handle);
            self.tasks.spawn(actor.run());
        }
        // A keeper that hangs is waited for by its actor, not by everybody.
        let adopted = handles.into_iter().map(|mut handle| async move {
            // Ended or refused: then the sender is gone, or the limit ends the wait.
            let _ = handle.created.wait_for(Option::is_some).await;
        });
        let _ = tokio::time::timeout(ADOPTION_LIMIT, join_all(adopted)).await;
    }

    /// Makes and boots a sandbox; answers when its agent does.
    ///
    /// # Errors
    /// Why it does not run; nothing of it is left then.
    pub async fn create(&self, call: Call, request: CreateSandbox) -> Result<SandboxFacts, HostError> {
        let mut created = {
            let id = request.spec.id.clone();
            if let Some((_, _, error)) = held(&self.shared.failed).iter().find(|(i, c, _)| *i == id && *c == call) {
                return Err(error.clone());
            }
            if self.shared.stopping.is_cancelled() {
                return Err(HostError::Unavailable("the host agent is stopping".into()));
            }
            let mut sandboxes = held(&self.shared.sandboxes);
            if self.shared.closing.load(Ordering::SeqCst) && !sandboxes.contains_key(&id) {
                return Err(HostError::Unavailable("the host agent is stopping".into()));
            }
            match sandboxes.get(&id) {
                Some(handle) if handle.call == call => handle.created.clone(),
                Some(_) => return Err(HostError::WrongState { state: "there already".into() }),
                None => {
                    let CreateSandbox { spec, secrets } = request;
                    let (actor, handle) = Actor::new(Arc::clone(&self.shared), call, spec, Some(secrets), Origin::New);
                    let created = handle.created.clone();
                    sandboxes.insert(id, handle);
                    self.tasks.spawn(actor.run());
                    created
                }
            }
        };
        let answer = created.wait_for(Option::is_some).await.map(|answer| answer.clone());
        match answer {
            Ok(Some(answer)) => answer,
            _ => Err(HostError::Unavailable("the host agent is stopping".into())),
        }
    }

    /// Ends a sandbox; answers when nothing of it is left.
    ///
    /// # Errors
    /// A stale incarnation, or what could not be given back.
    pub async fn destroy(&self, call: Call, id: SandboxId) -> Result<Destroyed, HostError> {
        self.end(&id, Some(call.incarnation), "destroyed".into()).await
    }

    async fn end(
        &self,
        id: &SandboxId,
        incarnation: Option<Incarnation>,
        reason: String,
    ) -> Result<Destroyed, HostError> {
        let Some(handle) = self.handle(id) else { return Ok(Destroyed::NotFound) };
        if incarnation.is_some_and(|asked| asked < handle.call.incarnation) {
            return Err(HostError::WrongState { state: format!("in its life {}", handle.call.incarnation) });
        }
        let (reply, answer) = oneshot::channel();
        if handle.mailbox.send(Message::Destroy { reason, tell: incarnation.is_none(), reply }).await.is_err() {
            return self.given_back(id);
        }
        answer.await.unwrap_or_else(|_| self.given_back(id))
    }

    /// What it means that an actor did not answer: one that ended well has taken its sandbox off the map before.
    fn given_back(&self, id: &SandboxId) -> Result<Destroyed, HostError> {
        match self.handle(id) {
            None => Ok(Destroyed::Done),
            Some(_) => {
                Err(HostError::Failed("a sandbox's actor ended without giving it back; the next start does".into()))
            }
        }
    }

    fn handle(&self, id: &SandboxId) -> Option<Handle> {
        held(&self.shared.sandboxes).get(id).cloned()
    }

    /// All sandboxes.
    pub fn list(&self) -> Vec<SandboxFacts> {
        held(&self.shared.sandboxes).values().map(|handle| handle.facts.borrow().clone()).collect()
    }

    /// One of them.
    ///
    /// # Errors
    /// [`HostError::NotFound`].
    pub fn inspect(&self, id: &SandboxId) -> Result<SandboxFacts, HostError> {
        self.handle(id).map(|handle| handle.facts.borrow().clone()).ok_or(HostError::NotFound)
    }

    /// Token and environment of a sandbox; waits until one that is being adopted is.
    ///
    /// # Errors
    /// [`HostError::NotFound`], also for one that could not be adopted.
    pub async fn secrets(&self, id: &SandboxId) -> Result<SandboxSecrets, HostError> {
        let mut secrets = self.handle(id).ok_or(HostError::NotFound)?.secrets;
        let limit = tokio::time::timeout(SECRETS_LIMIT, secrets.wait_for(Option::is_some)).await;
        let found = limit.map_err(|_| HostError::Unavailable("the sandbox is not taken over".into()))?;
        let found = found.ok().and_then(|found| found.clone());
        found.map(|secrets| secrets.as_ref().clone()).ok_or(HostError::NotFound)
    }

    /// What a sandbox used, at one resolution.
    ///
    /// # Errors
    /// [`HostError::NotFound`].
    pub fn metrics(&self, id: &SandboxId, tier: Tier) -> Result<Vec<Point>, HostError> {
        self.handle(id).map(|_| self.shared.metrics.points(id, tier)).ok_or(HostError::NotFound)
    }

    /// Everything that a sandbox used, at all resolutions, with what was incomplete closed; the sampling goes on.
    ///
    /// # Errors
    /// [`HostError::NotFound`].
    pub fn flush_metrics(&self, id: &SandboxId) -> Result<Vec<Joined>, HostError> {
        self.handle(id).map(|_| self.shared.metrics.flush(id)).ok_or(HostError::NotFound)
    }

    /// Events after a number, then live.
    pub fn watch(&self, from: EventSeq) -> mpsc::Receiver<HostEvent> {
        let (sender, receiver) = mpsc::channel(EVENTS);
        let shared = Arc::clone(&self.shared);
        let mut news = shared.events.news();
        self.tasks.spawn(async move {
            let mut last = from;
            let follow = async {
                loop {
                    for event in shared.events.after(last) {
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
                () = shared.stopping.cancelled() => {}
            }
        });
        receiver
    }

    /// The number of the last event that there was; 0 before the first.
    pub fn latest_event(&self) -> EventSeq {
        *self.shared.events.news().borrow()
    }

    /// Forgets events up to a number.
    ///
    /// # Errors
    /// When that could not be written.
    pub async fn acknowledge(&self, seq: EventSeq) -> Result<(), HostError> {
        let shared = Arc::clone(&self.shared);
        let done = tokio::task::spawn_blocking(move || shared.events.acknowledge(seq)).await;
        done.map_err(join_failed)?.map_err(|e| failed(&e))
    }

    /// What a running guest's console said last.
    ///
    /// # Errors
    /// No such sandbox, not running, or a keeper that does not answer.
    pub async fn console(&self, id: &SandboxId) -> Result<Vec<u8>, HostError> {
        let sockets = self.sockets(id).await?;
        sockets.console().await.map_err(|error| HostError::Failed(format!("the console cannot be read: {error}")))
    }

    /// The way into a sandbox that its actor hands out.
    async fn sockets(&self, id: &SandboxId) -> Result<Sockets, HostError> {
        let handle = self.handle(id).ok_or(HostError::NotFound)?;
        let (reply, answer) = oneshot::channel();
        handle.mailbox.send(Message::Sockets(reply)).await.map_err(|_| HostError::NotFound)?;
        answer.await.map_err(|_| HostError::NotFound)?
    }

    /// A stream to a port of a running guest.
    ///
    /// # Errors
    /// No such sandbox, not running, or nobody listens.
    pub async fn open_stream(&self, id: &SandboxId, port: u16) -> Result<GuestStream, HostError> {
        let sockets = self.sockets(id).await?;
        let stream = sockets.connect(port, DIAL_LIMIT).await;
        let stream = stream.map_err(|e| HostError::Unavailable(format!("port {port} of the guest: {e}")))?;
        Ok(Box::new(stream))
    }

    /// What this machine can take; waits for the verdict on KVM.
    ///
    /// # Errors
    /// When images could not be made ready.
    pub async fn capacity(&self) -> Result<HostCapacity, HostError> {
        let ready = self.shared.ready().await?;
        let cpus = cpus();
        let memory_mb = admission::memory_mb().0;
        let isolation = ready.isolation();
        let max_vcpus = HostLimits { cpus, memory_mb, isolation }.max_vcpus();
        let templates = atoll_disk::TEMPLATES.iter().map(|name| (*name).to_owned()).collect();
        let promised_mb = held(&self.shared.sandboxes).values().map(|handle| u64::from(handle.memory_mb)).sum();
        let room = admission::room(self.shared.data.root(), promised_mb)?;
        Ok(HostCapacity { cpus, memory_mb, max_vcpus, isolation, templates, room })
    }

    /// Whether images are there.
    pub fn is_ready(&self) -> bool {
        self.shared.readiness.now().is_some()
    }

    /// Ends every sandbox, or leaves those that run, and awaits every task.
    pub async fn shutdown(&self, on_exit: OnExit) {
        if on_exit == OnExit::Destroy {
            let ids: Vec<SandboxId> = {
                let sandboxes = held(&self.shared.sandboxes);
                // Under the map's lock: a create is either among these or refused.
                self.shared.closing.store(true, Ordering::SeqCst);
                sandboxes.keys().cloned().collect()
            };
            let ends = ids.iter().map(|id| self.end(id, None, "Atoll stopped".into()));
            for (id, ended) in ids.iter().zip(join_all(ends).await) {
                if let Err(error) = ended {
                    tracing::error!(sandbox.id = %id, %error, "a sandbox could not be ended; the next start goes on");
                }
            }
        }
        self.shared.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.shared.readiness.ended().await;
        if recovery::has_sandboxes(&self.shared) {
            // What runs on needs the host's rules.
            return;
        }
        let shared = Arc::clone(&self.shared);
        let torn_down = tokio::task::spawn_blocking(move || {
            atoll_keeper::cgroup::remove_instance(&shared.net.instance);
            atoll_net::host_teardown(&shared.net)
        });
        if let Ok(Err(error)) = torn_down.await {
            tracing::error!(%error, "the host's network could not be cleaned");
        }
    }
}

/// Samples all sandboxes until the agent stops.
async fn sample(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(SAMPLE);
    // After a stall the next samples are as far apart as any others.
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while shared.stopping.run_until_cancelled(ticks.tick()).await.is_some() {
        let (targets, metrics) = (shared.targets(), Arc::clone(&shared.metrics));
        // It reads small files of the kernel's and appends to the page cache: a panic in it is all that can fail.
        if let Err(error) = tokio::task::spawn_blocking(move || metrics.sample(&targets)).await {
            tracing::error!(%error, "sandboxes could not be sampled");
        }
    }
}

/// Polls all at once, in this task.
async fn join_all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut pending: Vec<_> = futures.map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        for (future, done) in &mut pending {
            if done.is_none()
                && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
            {
                *done = Some(value);
            }
        }
        if pending.iter().all(|(_, done)| done.is_some()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    pending.into_iter().filter_map(|(_, done)| done).collect()
}

fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
}

/// The part of a start that blocks.
fn begin(config: HostConfig, data: DataDir) -> Result<(Shared, Vec<Found>), StartError> {
    let instance = data.instance()?;
    let pool = choose_pool(config.address_pool.as_deref())?;
    let net = NetConfig { instance, pool };
    let keeper = data.unpack_keeper(config.keeper)?;
    let events = Events::open(data.root())?;
    atoll_net::host_setup(&net)?;
    let void_netns = atoll_net::void_namespace(&net)?;
    let boots = usize::try_from(cpus()).unwrap_or(1);
    let shared = Shared {
        config,
        data,
        net,
        slots: Slots::of_machine(),
        keeper,
        void_netns,
        boots: Semaphore::new(boots),
        stopping: CancellationToken::new(),
        closing: AtomicBool::new(false),
        readiness: Readiness::default(),
        events,
        metrics: Arc::new(Metrics::new()),
        sandboxes: Mutex::default(),
        failed: Mutex::default(),
    };
    let found = recovery::survey(&shared);
    Ok((shared, found))
}
