//! The one owner of one sandbox.
//!
//! How it works: a task that takes messages from a bounded mailbox, lets `atoll_domain::actor` decide, and carries the effects out:
//! preparing ([`prepare`]), booting ([`boot`]), giving back ([`release`]). At most one such piece of work runs at a time, inside
//! this task, while messages are still taken; it can be called off. Who waits for a create or a destroy is told when it ends.
//!
//! ```text
//!   HostAgent ──Message──> mailbox ──> step(state, event) ──effects──> work ──ends in an event──┐
//!   keeper    ──Event────────────────────────^                              ^───────────────────┘
//! ```
//!
//! Deliberately absent: decisions about what a sandbox is to be.

mod boot;
mod prepare;
pub(crate) mod release;
mod work;

use std::path::PathBuf;
use std::sync::Arc;

use atoll_domain::SandboxId;
use atoll_domain::actor::{Effect, Event, Origin, State, begin, step};
use atoll_domain::host::{
    Call, CreateSandbox, Destroyed, HostError, HostEventKind, HostSandboxState, SandboxFacts, SandboxSecrets,
};
use atoll_keeper::protocol::Event as KeeperEvent;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::agent::Shared;
use crate::dial::Sockets;
use boot::Alive;
use work::{Finished, Work};

pub(crate) type CreateAnswer = Option<Result<SandboxFacts, HostError>>;

const MAILBOX: usize = 32;

/// What an actor is asked.
#[derive(Debug)]
pub(crate) enum Message {
    /// Give everything back.
    Destroy {
        /// For the journal.
        reason: String,
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
    pub(crate) mailbox: mpsc::Sender<Message>,
    pub(crate) created: watch::Receiver<CreateAnswer>,
    pub(crate) facts: watch::Receiver<SandboxFacts>,
    pub(crate) secrets: Arc<SandboxSecrets>,
}

/// What an actor owns.
pub(crate) struct Actor {
    shared: Arc<Shared>,
    call: Call,
    request: CreateSandbox,
    secrets: Arc<SandboxSecrets>,
    dir: PathBuf,
    mailbox: mpsc::Receiver<Message>,
    created: watch::Sender<CreateAnswer>,
    facts: watch::Sender<SandboxFacts>,
    destroys: Vec<oneshot::Sender<Result<Destroyed, HostError>>>,
    alive: Option<Alive>,
    /// Why it is being given back, for the journal and whoever waits for the create.
    reason: String,
    failure: Option<HostError>,
    cancel: CancellationToken,
}

impl Actor {
    /// Makes an actor and its handle; it does nothing until it is run.
    pub(crate) fn new(shared: Arc<Shared>, call: Call, request: CreateSandbox) -> (Self, Handle) {
        let id = &request.spec.id;
        let dir = shared.data.sandboxes().join(id.as_str());
        let (sender, mailbox) = mpsc::channel(MAILBOX);
        let (created, created_seen) = watch::channel(None);
        let (facts, facts_seen) = watch::channel(first_facts(&call, id, &dir));
        let secrets = Arc::new(request.secrets.clone());
        let handle = Handle {
            call: call.clone(),
            memory_mb: request.spec.shape.memory_mb,
            mailbox: sender,
            created: created_seen,
            facts: facts_seen,
            secrets: Arc::clone(&secrets),
        };
        let actor = Self {
            cancel: shared.stopping.child_token(),
            shared,
            call,
            request,
            secrets,
            dir,
            mailbox,
            created,
            facts,
            destroys: Vec::new(),
            alive: None,
            reason: "destroyed".into(),
            failure: None,
        };
        (actor, handle)
    }

    fn id(&self) -> &SandboxId {
        &self.request.spec.id
    }

    /// Lives until the sandbox is gone.
    pub(crate) async fn run(mut self) {
        let (mut state, effects) = begin(Origin::New);
        let mut work = Work::none();
        self.carry_out(effects, &mut work);
        while state != State::Gone {
            let event = tokio::select! {
                biased;
                finished = &mut work => {
                    work = Work::none();
                    Some(self.finished(finished))
                }
                said = next_event(&mut self.alive), if state == State::Running => self.heard(said),
                message = self.mailbox.recv() => self.message(message, state),
            };
            if let Some(event) = event {
                let (next, effects) = step(state, event);
                state = next;
                self.carry_out(effects, &mut work);
            }
        }
        self.shared.forget(self.id());
        // Whoever asked meanwhile finds nothing left, which is what they asked for.
        self.mailbox.close();
        while let Some(message) = self.mailbox.recv().await {
            self.message(Some(message), State::Gone);
            self.tell_destroyed(&Ok(Destroyed::Done));
        }
    }

    fn message(&mut self, message: Option<Message>, state: State) -> Option<Event> {
        match message? {
            Message::Destroy { reason, reply } => {
                if self.destroys.is_empty() && matches!(state, State::Preparing | State::Booting(_) | State::Running) {
                    self.reason = reason;
                }
                self.destroys.push(reply);
                Some(Event::Destroy)
            }
            Message::Sockets(reply) => {
                let answer = match &self.alive {
                    Some(alive) if state == State::Running => Ok(alive.sockets.clone()),
                    _ => Err(HostError::WrongState { state: state_name(state).into() }),
                };
                // The asker has gone.
                let _ = reply.send(answer);
                None
            }
        }
    }

    /// The keeper said something, or is gone.
    fn heard(&mut self, said: Option<KeeperEvent>) -> Option<Event> {
        let note = |kind| self.shared.note(self.id(), self.call.incarnation, kind);
        match said {
            None => {
                self.reason = "the keeper ended".into();
                Some(Event::Ended)
            }
            Some(KeeperEvent::VmmExited { status, log }) => {
                let last = log.lines().last().unwrap_or_default().chars().take(200).collect::<String>();
                self.reason = match status {
                    0 => "the guest powered off or rebooted".into(),
                    n if n < 0 => format!("the VMM was killed by signal {}", -n),
                    n => format!("the VMM ended with {n}: {last}"),
                };
                Some(Event::Ended)
            }
            Some(KeeperEvent::Superseded) => {
                self.reason = "another Atoll claimed the keeper".into();
                Some(Event::Ended)
            }
            Some(KeeperEvent::Stopped { reason }) if reason == "disk_full" => {
                note(HostEventKind::DiskFull);
                None
            }
            Some(KeeperEvent::Stopped { .. } | KeeperEvent::Captured) => None,
            Some(KeeperEvent::Resumed) => {
                note(HostEventKind::Resumed);
                None
            }
        }
    }

    fn finished(&mut self, finished: Finished) -> Event {
        match finished {
            Finished::Prepared(Ok(())) => Event::Prepared,
            Finished::Booted(Ok(alive)) => {
                self.alive = Some(*alive);
                Event::Booted
            }
            Finished::Prepared(Err(error)) | Finished::Booted(Err(error)) => {
                tracing::warn!(sandbox.id = %self.id(), %error, "a step of the start failed");
                self.reason = error.to_string();
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
                Effect::Adopt | Effect::LetGo => {}
                Effect::Cancel => self.cancel.cancel(),
                Effect::Release => {
                    self.facts.send_modify(|facts| facts.state = HostSandboxState::Stopping);
                    let alive = self.alive.take();
                    *work = Work::new(release::run(self.context(), alive, self.reason.clone()));
                }
                Effect::CreateDone => self.announce(),
                Effect::CreateFailed => self.tell_create_failed(),
                Effect::DestroyDone => self.tell_destroyed(&Ok(Destroyed::Done)),
                Effect::DestroyFailed => {
                    let error = self.failure.clone().unwrap_or(HostError::Failed("something is left".into()));
                    self.tell_destroyed(&Err(error));
                }
                Effect::NoteEnd => {
                    let kind = HostEventKind::Ended { reason: self.reason.clone() };
                    self.shared.note(self.id(), self.call.incarnation, kind);
                }
            }
        }
    }

    /// What a piece of work may look at.
    fn context(&self) -> work::Context {
        work::Context {
            shared: Arc::clone(&self.shared),
            call: self.call.clone(),
            spec: self.request.spec.clone(),
            secrets: Arc::clone(&self.secrets),
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

async fn next_event(alive: &mut Option<Alive>) -> Option<KeeperEvent> {
    match alive {
        Some(alive) => alive.events.recv().await,
        None => std::future::pending().await,
    }
}

fn state_name(state: State) -> &'static str {
    match state {
        State::Preparing | State::Booting(_) | State::Adopting | State::Refused => "starting",
        State::Running | State::Left => "running",
        State::Cancelling | State::Releasing | State::Stuck => "stopping",
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
