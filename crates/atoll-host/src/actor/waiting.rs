//! Who waits for an actor, and for what.
//!
//! How it works: an asker is held until `atoll_domain::actor` says whether it joins or is refused; those who joined are told together. What
//! was asked beside (how to pause, with which secrets to resume) is kept for the work that begins.
//!
//! Deliberately absent: deciding who may join.

use std::sync::Arc;

use atoll_domain::actor::{Event, State};
use atoll_domain::host::{
    Call, Destroyed, HostError, MakeTemplate, PauseMode, ResumeSandbox, SandboxFacts, TemplateFacts,
};
use atoll_domain::record::Paused;
use atoll_domain::ttl::Cause;
use tokio::sync::watch;

use super::work::being_destroyed;
use super::{CreateAnswer, Reply, pausing, resuming};
use crate::dial::Sockets;
use crate::journal::Kept;

/// One who asked and was not decided about yet.
enum Asker {
    Pause(Reply<Paused>),
    Resume(Reply<SandboxFacts>),
    Copy(Reply<TemplateFacts>),
}

/// Everybody who waits.
pub(super) struct Waiting {
    created: watch::Sender<CreateAnswer>,
    asker: Option<Asker>,
    destroys: Vec<Reply<Destroyed>>,
    pauses: Vec<Reply<Paused>>,
    resumes: Vec<Reply<SandboxFacts>>,
    copies: Vec<Reply<TemplateFacts>>,
    /// Askers for streams, until it is known whether it can be adopted.
    parked: Vec<Reply<Sockets>>,
    pause: pausing::Order,
    resume: Option<resuming::Order>,
    copy: Option<MakeTemplate>,
    copied: Option<Result<TemplateFacts, HostError>>,
}

impl Waiting {
    pub(super) fn new(created: watch::Sender<CreateAnswer>) -> Self {
        Self {
            created,
            asker: None,
            destroys: Vec::new(),
            pauses: Vec::new(),
            resumes: Vec::new(),
            copies: Vec::new(),
            parked: Vec::new(),
            pause: pausing::Order { mode: PauseMode::Memory, by_host: false, cause: None },
            resume: None,
            copy: None,
            copied: None,
        }
    }

    /// Somebody wants it paused; a call of another life is refused here.
    pub(super) fn ask_pause(
        &mut self,
        state: State,
        current: &Call,
        call: Option<Call>,
        mode: PauseMode,
        reply: Reply<Paused>,
    ) -> Option<Event> {
        if call.as_ref().is_some_and(|call| call.incarnation != current.incarnation) {
            // The asker has gone.
            let _ = reply.send(Err(other_life(current)));
            return None;
        }
        if state == State::Running {
            self.pause = pausing::Order { mode, by_host: call.is_none(), cause: None };
        }
        self.asker = Some(Asker::Pause(reply));
        Some(Event::Pause)
    }

    /// A limit wants it paused; nobody waits.
    pub(super) fn pause_for(&mut self, cause: Cause) {
        self.pause = pausing::Order { mode: PauseMode::Memory, by_host: true, cause: Some(cause) };
    }

    /// Somebody wants it to run. The call bears the life that is to begin, or the one that runs already.
    pub(super) fn ask_resume(
        &mut self,
        state: State,
        current: &Call,
        call: Call,
        request: ResumeSandbox,
        reply: Reply<SandboxFacts>,
    ) -> Option<Event> {
        let life = match state {
            State::Running => call.incarnation == current.incarnation,
            State::Resuming => self.resume.as_ref().is_some_and(|order| order.call.incarnation == call.incarnation),
            State::Paused => call.incarnation > current.incarnation,
            _ => true,
        };
        if !life {
            // The asker has gone.
            let _ = reply.send(Err(other_life(current)));
            return None;
        }
        if state == State::Paused {
            let secrets = Arc::new(request.secrets);
            self.resume = Some(resuming::Order { call, mode: request.mode, secrets });
        }
        self.asker = Some(Asker::Resume(reply));
        Some(Event::Resume)
    }

    /// Somebody wants a template of it. The call bears the life that runs or was paused; one of another is refused here.
    pub(super) fn ask_copy(
        &mut self,
        current: &Call,
        call: &Call,
        request: MakeTemplate,
        reply: Reply<TemplateFacts>,
    ) -> Option<Event> {
        if call.incarnation != current.incarnation {
            // The asker has gone.
            let _ = reply.send(Err(other_life(current)));
            return None;
        }
        if self.copies.is_empty() {
            self.copy = Some(request);
        }
        self.asker = Some(Asker::Copy(reply));
        Some(Event::Copy)
    }

    pub(super) fn destroy(&mut self, reply: Reply<Destroyed>) {
        self.destroys.push(reply);
    }

    pub(super) fn park(&mut self, reply: Reply<Sockets>) {
        self.parked.push(reply);
    }

    pub(super) fn parked(&mut self) -> Vec<Reply<Sockets>> {
        std::mem::take(&mut self.parked)
    }

    pub(super) fn is_being_destroyed(&self) -> bool {
        !self.destroys.is_empty()
    }

    pub(super) fn is_creating(&self) -> bool {
        self.created.borrow().is_none()
    }

    /// Whether its create was answered well.
    pub(super) fn has_run(&self) -> bool {
        matches!(*self.created.borrow(), Some(Ok(_)))
    }

    pub(super) fn pause_order(&self) -> pausing::Order {
        self.pause
    }

    pub(super) fn resume_order(&self) -> Option<resuming::Order> {
        self.resume.clone()
    }

    /// The call of the life that has begun.
    pub(super) fn resume_call(&self) -> Option<Call> {
        self.resume.as_ref().map(|order| order.call.clone())
    }

    pub(super) fn copy_order(&mut self) -> Option<MakeTemplate> {
        self.copied = None;
        self.copy.take()
    }

    pub(super) fn note_copy(&mut self, result: Result<TemplateFacts, HostError>) {
        self.copied = Some(result);
    }

    /// The one who asked waits with the others. One that the host is itself has nobody to join.
    pub(super) fn join(&mut self) {
        match self.asker.take() {
            Some(Asker::Pause(reply)) => self.pauses.push(reply),
            Some(Asker::Resume(reply)) => self.resumes.push(reply),
            Some(Asker::Copy(reply)) => self.copies.push(reply),
            None => {}
        }
    }

    /// The one who asked is told the state. Who has gone is told nothing.
    pub(super) fn refuse(&mut self, state: State) {
        let error = HostError::WrongState { state: state.as_str().into() };
        let _ = match self.asker.take() {
            Some(Asker::Pause(reply)) => reply.send(Err(error)).is_ok(),
            Some(Asker::Resume(reply)) => reply.send(Err(error)).is_ok(),
            Some(Asker::Copy(reply)) => reply.send(Err(error)).is_ok(),
            None => false,
        };
    }

    pub(super) fn created(&mut self, answer: Result<SandboxFacts, HostError>) {
        self.created.send_replace(Some(answer));
    }

    pub(super) fn paused(&mut self, kept: Option<&Kept>) {
        let answer = kept.map(|kept| kept.paused.clone()).ok_or(HostError::Failed("nothing is kept".into()));
        tell(&mut self.pauses, &answer);
    }

    pub(super) fn pause_failed(&mut self, failure: Option<&HostError>) {
        tell(&mut self.pauses, &Err(failure.cloned().unwrap_or_else(being_destroyed)));
    }

    pub(super) fn resumed(&mut self, answer: Result<SandboxFacts, HostError>) {
        tell(&mut self.resumes, &answer);
    }

    pub(super) fn copied(&mut self) {
        let answer = self.copied.take().unwrap_or_else(|| Err(being_destroyed()));
        tell(&mut self.copies, &answer);
    }

    pub(super) fn destroyed(&mut self, answer: &Result<Destroyed, HostError>) {
        tell(&mut self.destroys, answer);
    }
}

fn tell<T: Clone>(waiting: &mut Vec<Reply<T>>, answer: &Result<T, HostError>) {
    for reply in waiting.drain(..) {
        // The asker has gone.
        let _ = reply.send(answer.clone());
    }
}

fn other_life(current: &Call) -> HostError {
    HostError::WrongState { state: format!("in its life {}", current.incarnation) }
}
