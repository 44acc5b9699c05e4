//! The host agent: the handle that the rest of Atoll holds.
//!
//! How it works: a map from sandbox to its actor's mailbox, and what all actors share. Calls are idempotent: a create with the same
//! operation joins the first one, a destroy of what is not there answers so. Actors are tracked tasks; [`HostAgent::shutdown`]
//! ends and awaits every one of them.
//!
//! Deliberately absent: doing anything to a sandbox outside of its actor.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use atoll_domain::actor::Origin;
use atoll_domain::host::{
    Call, CreateSandbox, Destroyed, EventSeq, HostCapacity, HostError, HostEvent, HostSandboxState, SandboxFacts,
    SandboxSecrets,
};
use atoll_domain::validate::HostLimits;
use atoll_domain::{Incarnation, SandboxId};
use atoll_guest_client::GuestStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use crate::actor::{Actor, Handle, Message};
use crate::data_dir::{DataDir, Lock};
use crate::dial::Sockets;
use crate::error::{failed, join_failed, silent, stopping};
use crate::recovery::Found;
use crate::shared::{Shared, begin, cpus, held};
use crate::{HostConfig, StartError, admission, goldens, metrics, recovery};

const EVENTS: usize = 64;
/// How long a start waits for keepers; one answers within milliseconds, or hangs.
const ADOPTION_LIMIT: Duration = Duration::from_secs(3);
/// How long an asker waits for an adoption; a keeper that hangs is given up before.
const SECRETS_LIMIT: Duration = Duration::from_secs(20);
/// How long a stop waits for an adoption that has no end yet.
const TAKING_OVER: Duration = Duration::from_secs(20);
const DIAL_LIMIT: Duration = Duration::from_secs(10);

/// What an orderly stop does with running sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExit {
    /// Ends them all, paused ones too; templates stay.
    Destroy,
    /// Leaves them running; the next start takes them over. What is half made is given back.
    Keep,
    /// Puts them on the disk; what cannot be paused is left running.
    Pause,
}

/// A host agent. Clones are handles to the same.
#[derive(Clone)]
pub struct HostAgent {
    pub(crate) shared: Arc<Shared>,
    pub(crate) tasks: TaskTracker,
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
        tasks.spawn(goldens::run(Arc::clone(&agent.shared)));
        tasks.spawn(metrics::sampling::run(Arc::clone(&agent.shared)));
        Ok(agent)
    }

    /// Gives each found sandbox its actor, and waits a while until those that can be adopted are.
    async fn take_over(&self, found: Vec<Found>) {
        let mut handles = Vec::new();
        for Found { call, spec, limits, origin, reason, kept } in found {
            let id = spec.id.clone();
            let (actor, handle) = Actor::new(Arc::clone(&self.shared), call, spec, None, origin);
            let actor = match reason {
                Some(reason) => actor.ended_because(reason),
                None => actor,
            };
            let actor = actor.keeping(kept).limited(limits);
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
                return Err(stopping());
            }
            let mut sandboxes = held(&self.shared.sandboxes);
            if self.shared.closing.load(Ordering::SeqCst) && !sandboxes.contains_key(&id) {
                return Err(stopping());
            }
            match sandboxes.get(&id) {
                Some(handle) if handle.call == call => handle.created.clone(),
                Some(_) => return Err(HostError::WrongState { state: "there already".into() }),
                None => {
                    let CreateSandbox { spec, secrets, inherited } = request;
                    let (actor, handle) = Actor::new(Arc::clone(&self.shared), call, spec, Some(secrets), Origin::New);
                    let created = handle.created.clone();
                    sandboxes.insert(id, handle);
                    self.tasks.spawn(actor.inheriting(inherited).run());
                    created
                }
            }
        };
        let answer = created.wait_for(Option::is_some).await.map(|answer| answer.clone());
        match answer {
            Ok(Some(answer)) => answer,
            _ => Err(silent(&self.shared)),
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
        self.readable(id)?;
        let Some(handle) = self.handle(id) else { return Ok(Destroyed::NotFound) };
        let current = handle.facts.borrow().incarnation;
        if incarnation.is_some_and(|asked| asked < current) {
            return Err(HostError::WrongState { state: format!("in its life {current}") });
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
            Some(_) if self.shared.stopping.is_cancelled() => Err(stopping()),
            Some(_) => {
                Err(HostError::Failed("a sandbox's actor ended without giving it back; the next start does".into()))
            }
        }
    }

    pub(crate) fn handle(&self, id: &SandboxId) -> Option<Handle> {
        held(&self.shared.sandboxes).get(id).cloned()
    }

    /// Whether it is known what a sandbox is.
    fn readable(&self, id: &SandboxId) -> Result<(), HostError> {
        if self.shared.unreadable.contains(id) {
            let detail = "its journal cannot be read: a newer Atoll wrote it, or the disk is damaged; it is left alone";
            return Err(HostError::Failed(detail.into()));
        }
        Ok(())
    }

    /// All sandboxes. One that cannot be read is there, too, so that nobody takes it for gone: as if it were starting, in its first life.
    pub fn list(&self) -> Vec<SandboxFacts> {
        let mut all = self.known();
        all.extend(
            self.shared
                .unreadable
                .iter()
                .map(|id| crate::actor::unread_facts(id, &self.shared.data.sandboxes().join(id.as_str()))),
        );
        all
    }

    fn known(&self) -> Vec<SandboxFacts> {
        held(&self.shared.sandboxes).values().map(|handle| handle.facts.borrow().clone()).collect()
    }

    /// One of them.
    ///
    /// # Errors
    /// [`HostError::NotFound`]; [`HostError::Stopping`] for one that runs while this agent stops, which lets go of it.
    pub fn inspect(&self, id: &SandboxId) -> Result<SandboxFacts, HostError> {
        self.readable(id)?;
        let facts = self.handle(id).map(|handle| handle.facts.borrow().clone()).ok_or(HostError::NotFound)?;
        // After the facts: whoever lost a stream because of the stop is to hear of it here.
        if facts.state == HostSandboxState::Running && self.shared.stopping.is_cancelled() {
            return Err(stopping());
        }
        Ok(facts)
    }

    /// Token and environment of a sandbox; waits until one that is being adopted is.
    ///
    /// # Errors
    /// [`HostError::NotFound`], also for one that could not be adopted; why, for one of a newer Atoll's.
    pub async fn secrets(&self, id: &SandboxId) -> Result<SandboxSecrets, HostError> {
        let handle = self.handle(id).ok_or(HostError::NotFound)?;
        if handle.facts.borrow().state == HostSandboxState::Paused {
            return Err(HostError::WrongState { state: "paused".into() });
        }
        let mut secrets = handle.secrets;
        let known = tokio::time::timeout(SECRETS_LIMIT, secrets.wait_for(Option::is_some));
        // Its actor answers as soon as the adoption has an end.
        let refused = async {
            match self.sockets(id, false).await {
                Err(error @ HostError::WrongState { .. }) => error,
                _ => std::future::pending().await,
            }
        };
        let limit = tokio::select! {
            biased;
            limit = known => limit,
            error = refused => return Err(error),
        };
        let found = limit.map_err(|_| HostError::Unavailable("the sandbox is not taken over".into()))?;
        let found = found.ok().and_then(|found| found.clone());
        found.map(|secrets| secrets.as_ref().clone()).ok_or_else(|| self.unanswered(id))
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
        let sockets = self.sockets(id, false).await?;
        let read = sockets.console().await;
        // A stop lets go of its keeper.
        let stops = self.shared.stopping.is_cancelled();
        read.map_err(
            |error| {
                if stops { stopping() } else { HostError::Failed(format!("the console cannot be read: {error}")) }
            },
        )
    }

    /// The way into a sandbox that its actor hands out.
    async fn sockets(&self, id: &SandboxId, used: bool) -> Result<Sockets, HostError> {
        let handle = self.handle(id).ok_or(HostError::NotFound)?;
        let (reply, answer) = oneshot::channel();
        handle.mailbox.send(Message::Sockets { used, reply }).await.map_err(|_| self.unanswered(id))?;
        answer.await.map_err(|_| self.unanswered(id))?
    }

    /// A stream to a port of a running guest; that is a use of it.
    ///
    /// # Errors
    /// No such sandbox, not running, or nobody listens.
    pub async fn open_stream(&self, id: &SandboxId, port: u16) -> Result<GuestStream, HostError> {
        let sockets = self.sockets(id, true).await?;
        let stream = sockets.stream(port, DIAL_LIMIT).await;
        stream.map_err(|e| HostError::Unavailable(format!("port {port} of the guest: {e}")))
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
        let room = admission::room(self.shared.data.root(), self.shared.promised(None))?;
        Ok(HostCapacity { cpus, memory_mb, max_vcpus, isolation, templates, room })
    }

    /// Whether images are there.
    pub fn is_ready(&self) -> bool {
        self.shared.readiness.now().is_some()
    }

    async fn pause_all(&self) {
        // From here on creates are refused, and actors refuse resumes.
        self.shared.closing.store(true, Ordering::SeqCst);
        let mut tried = HashSet::new();
        let mut next: Vec<SandboxId> = self.known().into_iter().map(|facts| facts.id).collect();
        while !next.is_empty() {
            let pauses = next.iter().map(|id| self.pause_at_stop(id));
            for (id, paused) in next.iter().zip(join_all(pauses).await) {
                if let Err(error) = paused {
                    tracing::error!(sandbox.id = %id, %error, "a sandbox could not be paused; it runs on");
                    tried.insert(id.clone());
                }
            }
            // What was being made came up meanwhile.
            let runs = self.known().into_iter().filter(|facts| facts.state == HostSandboxState::Running);
            next = runs.map(|facts| facts.id).filter(|id| !tried.contains(id)).collect();
        }
    }

    /// Pauses what runs, also what is being taken over, resumed, copied or paused at this moment; what is being made is called off by the
    /// stop.
    async fn pause_at_stop(&self, id: &SandboxId) -> Result<(), HostError> {
        let Some(mut handle) = self.handle(id) else { return Ok(()) };
        // Only for its actor's answer, which comes after everything that it was asked before, and after an adoption: from then on
        // its state is one that it has reached, or is on its way to. An adoption may wait for space on the disk.
        let answered = tokio::time::timeout(TAKING_OVER, self.sockets(id, false)).await;
        answered.map_err(|_| HostError::Unavailable("it is not taken over yet".into())).map(drop)?;
        // A resume has deadlines of its own. An actor that has ended left nothing that runs.
        let settled = handle.facts.wait_for(|facts| facts.state != HostSandboxState::Resuming).await;
        let runs = |state| matches!(state, HostSandboxState::Running | HostSandboxState::Pausing);
        if settled.is_ok_and(|facts| runs(facts.state)) {
            self.pause_by_host(id).await?;
        }
        Ok(())
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
        if on_exit == OnExit::Pause {
            self.pause_all().await;
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
