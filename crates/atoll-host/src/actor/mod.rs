//! The one owner of one sandbox.
//!
//! How it works: a task that takes messages from a bounded mailbox, lets `atoll_domain::actor` decide, and carries the effects out:
//! preparing ([`prepare`]), booting ([`boot`]), adopting ([`adopt`]), pausing ([`pausing`]), resuming ([`resuming`]), copying
//! ([`copying`]), giving back ([`release`]). At most one such piece of work runs at a time, inside this task, while messages are
//! still taken ([`mailbox`]); it can be called off. Who waits is told when it ends ([`waiting`]). Its limits are kept here ([`limits`]).
//!
//! ```text
//!   HostAgent ──Message──> mailbox ──> step(state, event) ──effects──> work ──ends in an event──┐
//!   keeper    ──Event────────────────────────^                              ^───────────────────┘
//!   limits    ──time is over─────────────────^
//! ```
//!
//! Deliberately absent: decisions about what a sandbox is to be.

mod adopt;
mod boot;
mod copy;
mod copying;
mod flattening;
mod going_on;
pub(crate) mod golden;
mod heard;
mod limits;
mod mailbox;
mod pausing;
mod prepare;
mod reach;
pub(crate) mod release;
mod resuming;
mod shown;
mod usage;
mod vmm;
mod waiting;
mod watching;
mod work;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use atoll_domain::actor::{Effect, Event, Origin, State, begin, step};
use atoll_domain::host::{
    Call, Destroyed, GuestToken, HostError, MakeTemplate, PauseMode, ResumeSandbox, SandboxFacts, SandboxSecrets,
    SandboxSpec, TemplateFacts,
};
use atoll_domain::record::Paused;
use atoll_domain::{SandboxId, ttl};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::dial::Sockets;
use crate::error::stopping;
use crate::journal::{Base, Kept};
use crate::shared::Shared;
use flattening::Flattening;
use going_on::Thawing;
use heard::exit_reason;
use limits::Limits;
use mailbox::Mailbox;
use release::Why;
pub(crate) use shown::unread_facts;
use shown::{first_facts, shown};
use usage::Usage;
use vmm::Alive;
use waiting::Waiting;
use work::Work;

pub(crate) type CreateAnswer = Option<Result<SandboxFacts, HostError>>;
pub(crate) type Reply<T> = oneshot::Sender<Result<T, HostError>>;

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
        reply: Reply<Destroyed>,
    },
    /// Put it on the disk.
    Pause {
        /// None: the host does it by itself.
        call: Option<Call>,
        mode: PauseMode,
        reply: Reply<Paused>,
    },
    /// Let it go on.
    Resume { call: Call, request: ResumeSandbox, reply: Reply<SandboxFacts> },
    /// Make a template of it.
    Copy { call: Call, request: MakeTemplate, reply: Reply<TemplateFacts> },
    /// New limits.
    Lifetime(ttl::Limits, Reply<()>),
    /// It was used.
    Used,
    /// Sockets for streams into the guest.
    Sockets {
        /// Whether it is used by that; our own looks are none.
        used: bool,
        reply: Reply<Sockets>,
    },
}

/// The handle to an actor.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    /// The create's; later lives have calls of their own.
    pub(crate) call: Call,
    pub(crate) memory_mb: u32,
    pub(crate) vcpus: u32,
    /// Whether one of its limits may pause it, so that its bytes are reserved.
    pub(crate) may_pause_itself: Arc<AtomicBool>,
    pub(crate) mailbox: mpsc::Sender<Message>,
    pub(crate) created: watch::Receiver<CreateAnswer>,
    pub(crate) facts: watch::Receiver<SandboxFacts>,
    /// None until they came from an adopted sandbox's keeper, and of one that was paused by an earlier Atoll.
    pub(crate) secrets: watch::Receiver<Option<Arc<SandboxSecrets>>>,
}

/// What an actor owns.
pub(crate) struct Actor {
    shared: Arc<Shared>,
    /// Of the life that it is in.
    call: Call,
    spec: SandboxSpec,
    origin: Origin,
    inherited: Option<GuestToken>,
    secrets: watch::Sender<Option<Arc<SandboxSecrets>>>,
    dir: PathBuf,
    mailbox: Mailbox,
    facts: watch::Sender<SandboxFacts>,
    waiting: Waiting,
    limits: Limits,
    alive: Option<Alive>,
    usage: Usage,
    /// The way into its running VM; work that borrows the VM leaves it here.
    reach: Option<Sockets>,
    /// What is kept, while it is paused.
    kept: Option<Kept>,
    flattening: Flattening,
    /// User code that still stands still though its VM runs.
    thawing: Thawing,
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
        let (facts, facts_seen) = watch::channel(limits::as_made(first_facts(call.incarnation, &spec.id, &dir), &spec));
        let (secrets, secrets_seen) = watch::channel(secrets.map(Arc::new));
        let may_pause_itself = Arc::new(AtomicBool::new(spec.lifetime.may_pause()));
        let handle = Handle {
            call: call.clone(),
            memory_mb: spec.shape.memory_mb,
            vcpus: spec.shape.vcpus,
            may_pause_itself: Arc::clone(&may_pause_itself),
            mailbox: sender,
            created: created_seen,
            facts: facts_seen,
            secrets: secrets_seen,
        };
        let actor = Self {
            cancel: shared.stopping.child_token(),
            limits: Limits::new(spec.lifetime, may_pause_itself),
            shared,
            call,
            spec,
            origin,
            inherited: None,
            secrets,
            dir,
            mailbox: Mailbox::new(mailbox),
            facts,
            waiting: Waiting::new(created),
            alive: None,
            usage: Usage::none(),
            reach: None,
            kept: None,
            flattening: Flattening::none(),
            thawing: Thawing::none(),
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

    /// What is kept of one that an earlier Atoll paused.
    pub(crate) fn keeping(mut self, kept: Option<Kept>) -> Self {
        self.facts.send_modify(|facts| facts.paused = kept.as_ref().map(|kept| kept.paused.clone()));
        self.kept = kept;
        self
    }

    /// The token that a copy's agent has until it is told its own.
    pub(crate) fn inheriting(mut self, token: Option<GuestToken>) -> Self {
        self.inherited = token;
        self
    }

    fn id(&self) -> &SandboxId {
        &self.spec.id
    }

    /// Lives until the sandbox is gone, or Atoll stops and it goes on alone.
    pub(crate) async fn run(mut self) {
        let (mut state, effects) = begin(self.origin);
        let mut work = Work::none();
        self.carry_out(state, effects, &mut work);
        let stopping = self.shared.stopping.clone();
        while !state.is_final() {
            // Work that was called off ends by itself; until then there is nothing more to be said about leaving.
            let may_leave = !state.holds_back_a_leave();
            let running = state == State::Running;
            if !running {
                self.limits.leave_queue();
            }
            let event = tokio::select! {
                biased;
                // First: the same word calls an adoption off, which must not be taken for a failed one.
                () = stopping.cancelled(), if may_leave => Some(Event::Leave),
                finished = &mut work => {
                    work = Work::none();
                    Some(self.finished(finished))
                }
                // Its figures go on while a template is made of it.
                () = &mut self.usage, if running || state == State::Copying => None,
                never = &mut self.thawing, if running => match never {},
                heard = heard::next(&mut self.alive), if running => self.heard(heard).await,
                message = self.mailbox.next(state) => self.message(message, state).await,
                flat = self.flattening.done(), if state == State::Paused => {
                    self.flattened(flat);
                    None
                }
                () = self.limits.over(&self.shared.pauses, state == State::Paused), if running || state == State::Paused => {
                    if running { self.time_is_over() } else { Some(self.kept_long_enough()) }
                }
            };
            if let Some(event) = event {
                let (next, effects) = step(state, event);
                state = next;
                self.carry_out(state, effects, &mut work);
                self.answer_parked(state);
            }
        }
        drop(work);
        self.flattening.stop().await;
        self.last_words(state).await;
    }

    async fn last_words(mut self, state: State) {
        if state == State::Gone && self.waiting.has_run() {
            // A replay of its create that comes late makes no second one.
            self.shared.remember(self.id(), &self.call, HostError::WrongState { state: "stopped".into() });
        }
        if state == State::Gone {
            // One that is left stays on the list: whoever compares it with the records meanwhile must not take it for gone.
            self.shared.forget(self.id());
        }
        // Whoever asked for an end meanwhile finds nothing left, which is what they asked for, or is told that Atoll stops.
        self.mailbox.close();
        while let Some(message) = self.mailbox.next(state).await {
            self.message(Some(message), state).await;
            if state == State::Gone {
                self.waiting.destroyed(&Ok(Destroyed::Done));
            } else {
                self.waiting.destroyed(&Err(stopping()));
            }
        }
    }

    async fn message(&mut self, message: Option<Message>, state: State) -> Option<Event> {
        match message? {
            Message::Destroy { reason, tell, reply } => {
                let first = !self.waiting.is_being_destroyed();
                if first && !matches!(state, State::Cancelling | State::Releasing | State::Stuck | State::Gone) {
                    self.reason = reason;
                    self.ended = tell;
                }
                self.waiting.destroy(reply);
                Some(Event::Destroy)
            }
            Message::Pause { call, mode, reply } => self.waiting.ask_pause(state, &self.call, call, mode, reply),
            Message::Resume { reply, .. } if self.shared.closing.load(Ordering::SeqCst) => {
                // The asker has gone.
                let _ = reply.send(Err(stopping()));
                None
            }
            Message::Resume { call, request, reply } => {
                self.waiting.ask_resume(state, &self.call, call, request, reply)
            }
            Message::Copy { call, request, reply } => self.waiting.ask_copy(&self.call, &call, request, reply),
            Message::Lifetime(limits, reply) => {
                // The asker has gone.
                let _ = reply.send(self.set_lifetime(state, limits).await);
                None
            }
            Message::Used => {
                self.used(state);
                None
            }
            Message::Sockets { used, reply } => {
                if used && matches!(state, State::Running | State::Copying) {
                    // Here and not when its user tells: its time may be over before.
                    self.used(state);
                }
                if state == State::Adopting {
                    self.waiting.park(reply);
                } else {
                    // The asker has gone.
                    let _ = reply.send(self.sockets(state));
                }
                None
            }
        }
    }

    fn carry_out(&mut self, state: State, effects: Vec<Effect>, work: &mut Work) {
        if let Some(shown) = shown(state) {
            self.facts.send_if_modified(|facts| std::mem::replace(&mut facts.state, shown) != shown);
        }
        for effect in effects {
            self.carry_out_one(state, effect, work);
        }
    }

    fn carry_out_one(&mut self, state: State, effect: Effect, work: &mut Work) {
        match effect {
            Effect::Prepare => *work = Work::new(prepare::run(self.context())),
            Effect::Boot(attempt) => *work = Work::new(boot::run(self.context(), attempt)),
            Effect::Adopt => *work = Work::new(adopt::run(self.context())),
            Effect::BeginPause => *work = self.begin_pause(),
            Effect::Settle => *work = self.settle(),
            Effect::BeginResume => *work = self.begin_resume(),
            Effect::BeginCopy => *work = self.begin_copy(),
            Effect::Join => self.waiting.join(),
            Effect::Refuse => self.waiting.refuse(state),
            Effect::TellPaused => self.waiting.paused(self.kept.as_ref()),
            Effect::TellPauseFailed => self.waiting.pause_failed(self.failure.as_ref()),
            Effect::TellResumed => self.waiting.resumed(Ok(self.facts.borrow().clone())),
            Effect::TellResumeFailed => {
                let error = self.failure.clone().unwrap_or_else(|| self.why_called_off());
                self.waiting.resumed(Err(error));
            }
            Effect::TellCopied => self.waiting.copied(),
            Effect::LetGo => {
                *work = Work::none();
                if let Some(alive) = self.alive.take() {
                    alive.connection.abort();
                }
            }
            Effect::Cancel => self.cancel.cancel(),
            Effect::Release => {
                let alive = self.alive.take();
                self.follow();
                let why = Why { reason: self.reason.clone(), tell: self.ended };
                let flattening = std::mem::replace(&mut self.flattening, Flattening::none());
                *work = Work::new(release::run(self.context(), alive, flattening, why));
            }
            Effect::CreateDone => self.waiting.created(Ok(self.facts.borrow().clone())),
            Effect::CreateFailed => self.create_failed(),
            Effect::DestroyDone => self.waiting.destroyed(&Ok(Destroyed::Done)),
            Effect::DestroyFailed => {
                let error = self.failure.clone().unwrap_or(HostError::Failed("something is left".into()));
                self.waiting.destroyed(&Err(error));
            }
            // Written down with the tombstone, which comes next.
            Effect::NoteEnd => self.ended = true,
        }
    }

    fn begin_pause(&mut self) -> Work {
        self.failure = None;
        // Whatever comes of the pause thaws user code.
        self.thawing = Thawing::none();
        match self.alive.take() {
            Some(alive) => {
                let (order, turn) = (self.waiting.pause_order(), self.limits.take_turn());
                Work::new(pausing::run(self.context(), Box::new(alive), order, turn))
            }
            None => Work::none(),
        }
    }

    fn settle(&mut self) -> Work {
        match &self.kept {
            Some(kept) => Work::new(pausing::settle(self.context(), self.alive.take().map(Box::new), kept.clone())),
            None => Work::none(),
        }
    }

    fn begin_resume(&mut self) -> Work {
        self.failure = None;
        let flattening = std::mem::replace(&mut self.flattening, Flattening::none());
        match (self.kept.clone(), self.waiting.resume_order()) {
            (Some(kept), Some(order)) => {
                self.secrets.send_replace(Some(Arc::clone(&order.secrets)));
                Work::new(resuming::run(self.context(), kept, order, flattening))
            }
            _ => Work::none(),
        }
    }

    fn begin_copy(&mut self) -> Work {
        let thawing = std::mem::replace(&mut self.thawing, Thawing::none());
        let flattening = std::mem::replace(&mut self.flattening, Flattening::none());
        match (self.alive.take(), self.kept.clone(), self.waiting.copy_order()) {
            (Some(alive), _, Some(order)) => {
                Work::new(copying::of_running(self.context(), Box::new(alive), order, thawing))
            }
            (None, Some(kept), Some(order)) => Work::new(copying::of_paused(self.context(), kept, order, flattening)),
            _ => Work::none(),
        }
    }

    /// What a piece of work may look at.
    fn context(&self) -> work::Context {
        work::Context {
            shared: Arc::clone(&self.shared),
            call: self.call.clone(),
            spec: self.spec.clone(),
            secrets: self.secrets.borrow().clone(),
            inherited: self.inherited.clone(),
            dir: self.dir.clone(),
            facts: self.facts.clone(),
            cancel: self.cancel.clone(),
        }
    }

    /// Why a start that was called off came to nothing: what somebody asked for counts before a stop that came later.
    fn why_called_off(&self) -> HostError {
        if self.waiting.is_being_destroyed() && !self.shared.closing.load(Ordering::SeqCst) {
            work::being_destroyed()
        } else {
            work::called_off(&self.shared)
        }
    }

    fn create_failed(&mut self) {
        if self.waiting.is_creating() {
            let error = self.failure.clone().unwrap_or_else(|| self.why_called_off());
            self.shared.remember(self.id(), &self.call, error.clone());
            self.waiting.created(Err(error));
        }
    }
}

/// A sandbox whose memory is not mapped from an object rests on none; blocks.
fn rest_on(shared: &Shared, id: &SandboxId, base: Option<&Base>) -> Result<(), HostError> {
    match base {
        Some(Base::Object { .. }) => Ok(()),
        Some(Base::Own { .. } | Base::Empty) | None => {
            shared.objects.release(&crate::shared::rests(id)).map_err(|e| crate::error::failed(&e))
        }
    }
}
