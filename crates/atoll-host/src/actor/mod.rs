//! The one owner of one sandbox.
//!
//! How it works: a task that takes messages from a bounded mailbox, lets `atoll_domain::actor` decide, and carries the effects out:
//! preparing ([`prepare`]), booting ([`boot`]), adopting ([`adopt`]), giving back ([`release`]). At most one such piece of work runs at a time, inside
//! this task, while messages are still taken; it can be called off. Who waits for a create or a destroy is told when it ends.
//!
//! ```text
//!   HostAgent ──Message──> mailbox ──> step(state, event) ──effects──> work ──ends in an event──┐
//!   keeper    ──Event────────────────────────^                              ^───────────────────┘
//! ```
//!
//! Deliberately absent: decisions about what a sandbox is to be.

mod adopt;
mod boot;
mod prepare;
pub(crate) mod release;
mod watching;
mod work;

use std::path::PathBuf;
use std::sync::Arc;

use atoll_domain::SandboxId;
use atoll_domain::actor::{Effect, Event, Origin, State, begin, step};
use atoll_domain::host::{
    Call, Destroyed, HostError, HostEventKind, HostSandboxState, SandboxFacts, SandboxSecrets, SandboxSpec,
};
use atoll_keeper::protocol::Event as KeeperEvent;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::agent::Shared;
use crate::dial::Sockets;
use boot::Alive;
use release::Why;
use work::{Adoption, Finished, Work};

pub(crate) type CreateAnswer = Option<Result<SandboxFacts, HostError>>;

const MAILBOX: usize = 32;

/// What an actor is asked.
#[derive(Debug)]
pub(crate) enum Message {
    /// Give everything back.
    Destroy {
        /// For the journal.
        reason: String,
        /// Whether the host does it by itself, so that the event stream tells of it.
        tell: bool,
        reply: oneshot::Sender<Result<Destroyed, HostError>>,
    },
    /// Sockets for streams into the guest.
    Sockets(oneshot::Sender<Result<Sockets, HostError>>),
}

/// The handle to an actor.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    pub(crate) call: Call,
    pub(crate) memory_mb: u32,
    pub(crate) vcpus: u32,
    pub(crate) mailbox: mpsc::Sender<Message>,
    pub(crate) created: watch::Receiver<CreateAnswer>,
    pub(crate) facts: watch::Receiver<SandboxFacts>,
    /// None until they came from an adopted sandbox's keeper.
    pub(crate) secrets: watch::Receiver<Option<Arc<SandboxSecrets>>>,
}

/// What an actor owns.
pub(crate) struct Actor {
    shared: Arc<Shared>,
    call: Call,
    spec: SandboxSpec,
    origin: Origin,
    secrets: watch::Sender<Option<Arc<SandboxSecrets>>>,
    dir: PathBuf,
    mailbox: mpsc::Receiver<Message>,
    created: watch::Sender<CreateAnswer>,
    facts: watch::Sender<SandboxFacts>,
    destroys: Vec<oneshot::Sender<Result<Destroyed, HostError>>>,
    /// Askers for streams, until it is known whether it can be adopted.
    parked: Vec<oneshot::Sender<Result<Sockets, HostError>>>,
    alive: Option<Alive>,
    /// Why it is being given back, for the journal and whoever waits for the create.
    reason: String,
    /// Whether it ended by itself.
    ended: bool,
    failure: Option<HostError>,
    cancel: CancellationToken,
}

impl Actor {
    /// Makes an actor and its handle; it does nothing until it is run.
    pub(crate) fn new(
        shared: Arc<Shared>,
        call: Call,
        spec: SandboxSpec,
        secrets: Option<SandboxSecrets>,
        origin: Origin,
    ) -> (Self, Handle) {
        let dir = shared.data.sandboxes().join(spec.id.as_str());
        let (sender, mailbox) = mpsc::channel(MAILBOX);
        let (created, created_seen) = watch::channel(None);
        let (facts, facts_seen) = watch::channel(first_facts(&call, &spec.id, &dir));
        let (secrets, secrets_seen) = watch::channel(secrets.map(Arc::new));
        let handle = Handle {
            call: call.clone(),
            memory_mb: spec.shape.memory_mb,
            vcpus: spec.shape.vcpus,
            mailbox: sender,
            created: created_seen,
            facts: facts_seen,
            secrets: secrets_seen,
        };
        let actor = Self {
            cancel: shared.stopping.child_token(),
            shared,
            call,
            spec,
            origin,
            secrets,
            dir,
            mailbox,
            created,
            facts,
            destroys: Vec::new(),
            parked: Vec::new(),
            alive: None,
            reason: "destroyed".into(),
            ended: false,
            failure: None,
        };
        (actor, handle)
    }

    /// Why it is to be given back, and that nobody asked for it.
    pub(crate) fn ended_because(mut self, reason: &str) -> Self {
        self.reason = reason.into();
        self.ended = true;
        self
    }

    fn id(&self) -> &SandboxId {
        &self.spec.id
    }

    /// Lives until the sandbox is gone, or Atoll stops and it goes on alone.
    pub(crate) async fn run(mut self) {
        let (mut state, effects) = begin(self.origin);
        let mut work = Work::none();
        self.carry_out(effects, &mut work);
        let stopping = self.shared.stopping.clone();
        while !state.is_final() {
            // Work that was called off ends by itself; until then there is nothing more to be said about leaving.
            let may_leave = !matches!(state, State::Cancelling | State::Releasing);
            let event = tokio::select! {
                biased;
                // First: the same word calls an adoption off, which must not be taken for a failed one.
                () = stopping.cancelled(), if may_leave => Some(Event::Leave),
                finished = &mut work => {
                    work = Work::none();
                    Some(self.finished(finished))
                }
                heard = next_event(&mut self.alive), if state == State::Running => self.heard(heard).await,
                message = self.mailbox.recv() => self.message(message, state),
            };
            if let Some(event) = event {
                let (next, effects) = step(state, event);
                state = next;
                self.carry_out(effects, &mut work);
                self.answer_parked(state);
            }
        }
        drop(work);
        if state == State::Gone && matches!(*self.created.borrow(), Some(Ok(_))) {
            // A replay of its create that comes late makes no second one.
            self.shared.remember(self.id(), &self.call, HostError::WrongState { state: "stopped".into() });
        }
        self.shared.forget(self.id());
        // Whoever asked meanwhile finds nothing left, which is what they asked for.
        self.mailbox.close();
        while let Some(message) = self.mailbox.recv().await {
            self.message(Some(message), state);
            if state == State::Gone {
                self.tell_destroyed(&Ok(Destroyed::Done));
            } else {
                self.tell_destroyed(&Err(HostError::Unavailable("the host agent is stopping".into())));
            }
        }
    }

    /// Streams were asked for while it was not known yet whether there is anything to connect to.
    fn answer_parked(&mut self, state: State) {
        if state != State::Adopting {
            for reply in std::mem::take(&mut self.parked) {
                // The asker has gone.
                let _ = reply.send(self.sockets(state));
            }
        }
    }

    fn sockets(&self, state: State) -> Result<Sockets, HostError> {
        match &self.alive {
            Some(alive) if state == State::Running => Ok(alive.sockets.clone()),
            _ if state == State::Refused => Err(HostError::WrongState { state: self.reason.clone() }),
            _ => Err(HostError::WrongState { state: state_name(state).into() }),
        }
    }

    fn message(&mut self, message: Option<Message>, state: State) -> Option<Event> {
        match message? {
            Message::Destroy { reason, tell, reply } => {
                let at_rest = matches!(state, State::Running | State::Adopting | State::Refused);
                if self.destroys.is_empty() && (at_rest || matches!(state, State::Preparing | State::Booting(_))) {
                    self.reason = reason;
                    self.ended = tell;
                }
                self.destroys.push(reply);
                Some(Event::Destroy)
            }
            Message::Sockets(reply) => {
                if state == State::Adopting {
                    self.parked.push(reply);
                } else {
                    // The asker has gone.
                    let _ = reply.send(self.sockets(state));
                }
                None
            }
        }
    }

    /// The keeper said something, or is gone, or hangs.
    async fn heard(&mut self, heard: Heard) -> Option<Event> {
        match heard {
            Heard::Hangs(reason) => {
                self.reason = reason;
                Some(Event::Ended)
            }
            Heard::Said(None) => {
                self.reason = "the keeper ended".into();
                Some(Event::Ended)
            }
            Heard::Said(Some(KeeperEvent::VmmExited { status, log })) => {
                tracing::warn!(sandbox.id = %self.id(), status, log = %log.trim(), "a VMM ended");
                self.reason = exit_reason(status);
                Some(Event::Ended)
            }
            Heard::Said(Some(KeeperEvent::Superseded)) => {
                tracing::error!(sandbox.id = %self.id(), "another Atoll claimed the keeper; the sandbox is its own now");
                Some(Event::Leave)
            }
            Heard::Said(Some(KeeperEvent::Stopped { reason })) if reason == adopt::DISK_FULL => {
                self.halted(true, HostEventKind::DiskFull).await;
                None
            }
            // Said to whoever waits for the snapshot.
            Heard::Said(Some(KeeperEvent::Stopped { .. } | KeeperEvent::Captured)) => None,
            Heard::Said(Some(KeeperEvent::Resumed)) => {
                self.halted(false, HostEventKind::Resumed).await;
                None
            }
        }
    }

    /// The VM met a full disk, or goes on.
    async fn halted(&mut self, halted: bool, kind: HostEventKind) {
        if let Some(alive) = &self.alive {
            alive.watch.set_halted(halted);
        }
        if let Err(error) = self.shared.tell(&self.dir, self.id(), self.call.incarnation, kind).await {
            tracing::error!(sandbox.id = %self.id(), %error, "an event could not be written down");
        }
    }

    fn finished(&mut self, finished: Finished) -> Event {
        match finished {
            Finished::Prepared(Ok(())) => Event::Prepared,
            Finished::Booted(Ok(alive)) => {
                self.alive = Some(*alive);
                Event::Booted
            }
            Finished::Adopted(Adoption::Done(alive, secrets)) => {
                tracing::info!(sandbox.id = %self.id(), "took a running sandbox over");
                self.secrets.send_replace(Some(secrets));
                self.alive = Some(*alive);
                Event::Adopted
            }
            Finished::Adopted(Adoption::TooNew(why)) => {
                tracing::error!(sandbox.id = %self.id(), %why, "a sandbox of a newer Atoll is left running");
                self.reason = format!("kept by a newer Atoll ({why}); start that one to use it");
                Event::TooNew
            }
            Finished::Adopted(Adoption::Ended(why)) => {
                tracing::warn!(sandbox.id = %self.id(), %why, "a sandbox ended while no Atoll ran");
                if self.destroys.is_empty() {
                    self.reason = why;
                }
                Event::Ended
            }
            Finished::Adopted(Adoption::Failed(error)) => {
                tracing::warn!(sandbox.id = %self.id(), %error, "a sandbox could not be taken over");
                if self.destroys.is_empty() {
                    self.reason = error.told();
                }
                Event::WorkFailed
            }
            Finished::Prepared(Err(error)) | Finished::Booted(Err(error)) => {
                tracing::warn!(sandbox.id = %self.id(), %error, "a step of the start failed");
                self.reason = error.told();
                self.failure = Some(error);
                Event::WorkFailed
            }
            Finished::Released(Ok(())) => Event::Released,
            Finished::Released(Err(error)) => {
                tracing::error!(sandbox.id = %self.id(), %error, "a sandbox could not be given back whole");
                self.failure = Some(error);
                Event::ReleaseFailed
            }
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>, work: &mut Work) {
        for effect in effects {
            match effect {
                Effect::Prepare => *work = Work::new(prepare::run(self.context())),
                Effect::Boot(attempt) => *work = Work::new(boot::run(self.context(), attempt)),
                Effect::Adopt => *work = Work::new(adopt::run(self.context())),
                Effect::LetGo => {
                    *work = Work::none();
                    if let Some(alive) = self.alive.take() {
                        alive.connection.abort();
                    }
                }
                Effect::Cancel => self.cancel.cancel(),
                Effect::Release => {
                    self.facts.send_modify(|facts| facts.state = HostSandboxState::Stopping);
                    let alive = self.alive.take();
                    let why = Why { reason: self.reason.clone(), tell: self.ended };
                    *work = Work::new(release::run(self.context(), alive, why));
                }
                Effect::CreateDone => self.announce(),
                Effect::CreateFailed => self.tell_create_failed(),
                Effect::DestroyDone => self.tell_destroyed(&Ok(Destroyed::Done)),
                Effect::DestroyFailed => {
                    // Seen in the host's list, so that whoever compares it with the records destroys it again.
                    self.facts.send_modify(|facts| facts.state = HostSandboxState::Stuck);
                    let error = self.failure.clone().unwrap_or(HostError::Failed("something is left".into()));
                    self.tell_destroyed(&Err(error));
                }
                // Written down with the tombstone, which comes next.
                Effect::NoteEnd => self.ended = true,
            }
        }
    }

    /// What a piece of work may look at.
    fn context(&self) -> work::Context {
        work::Context {
            shared: Arc::clone(&self.shared),
            call: self.call.clone(),
            spec: self.spec.clone(),
            secrets: self.secrets.borrow().clone(),
            dir: self.dir.clone(),
            facts: self.facts.clone(),
            cancel: self.cancel.clone(),
        }
    }

    fn announce(&mut self) {
        self.facts.send_modify(|facts| facts.state = HostSandboxState::Running);
        let facts = self.facts.borrow().clone();
        self.created.send_replace(Some(Ok(facts)));
    }

    fn tell_create_failed(&mut self) {
        if self.created.borrow().is_none() {
            let called_off = HostError::WrongState { state: "being destroyed".into() };
            let error =
                if self.cancel.is_cancelled() { called_off } else { self.failure.clone().unwrap_or(called_off) };
            self.shared.remember(self.id(), &self.call, error.clone());
            self.created.send_replace(Some(Err(error)));
        }
    }

    fn tell_destroyed(&mut self, answer: &Result<Destroyed, HostError>) {
        for reply in self.destroys.drain(..) {
            // The asker has gone.
            let _ = reply.send(answer.clone());
        }
    }
}

/// What comes of a running VM.
enum Heard {
    /// The keeper said something; nothing any more when it is gone.
    Said(Option<KeeperEvent>),
    /// Keeper or VMM give no sign of life.
    Hangs(String),
}

async fn next_event(alive: &mut Option<Alive>) -> Heard {
    match alive {
        Some(alive) => tokio::select! {
            biased;
            said = alive.events.recv() => Heard::Said(said),
            reason = &mut alive.watch => Heard::Hangs(reason),
        },
        None => std::future::pending().await,
    }
}

/// For people: how a VMM ended.
fn exit_reason(status: i32) -> String {
    match status {
        0 => "the guest powered off or rebooted".into(),
        n if n < 0 => format!("the VMM was killed by signal {}", -n),
        n => format!("the VMM ended with {n}"),
    }
}

fn state_name(state: State) -> &'static str {
    match state {
        State::Preparing | State::Booting(_) | State::Adopting | State::Refused => "starting",
        State::Running | State::Left => "running",
        State::Cancelling | State::Releasing => "stopping",
        State::Stuck => "stuck",
        State::Gone => "stopped",
    }
}

fn first_facts(call: &Call, id: &SandboxId, dir: &std::path::Path) -> SandboxFacts {
    SandboxFacts {
        id: id.clone(),
        incarnation: call.incarnation,
        state: HostSandboxState::Starting,
        directory: dir.display().to_string(),
        keeper_pid: None,
        vmm_pid: None,
        netns: None,
        interface: None,
        host_ip: None,
        guest_ip: None,
        uid: None,
        phases: Vec::new(),
    }
}
