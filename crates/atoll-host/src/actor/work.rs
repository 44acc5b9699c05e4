//! One piece of an actor's work, polled by the actor itself.
//!
//! How it works: a boxed future that ends in what came of it; while there is none it never ends, so that the actor can always wait
//! for it.
//!
//! Deliberately absent: tasks. Dropping the actor drops its work.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use atoll_domain::Network;
use atoll_domain::host::{Call, HostError, Phase, SandboxFacts, SandboxSecrets, SandboxSpec};
use atoll_net::NetPlan;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::boot::Alive;
use crate::agent::Shared;

/// What came of a piece of work.
pub(super) enum Finished {
    Prepared(Result<(), HostError>),
    Booted(Result<Box<Alive>, HostError>),
    Adopted(Adoption),
    Released(Result<(), HostError>),
}

/// What came of claiming an earlier Atoll's keeper.
pub(super) enum Adoption {
    /// It is ours; with what it held in its memory.
    Done(Box<Alive>, Arc<SandboxSecrets>),
    /// It is newer than this Atoll.
    TooNew(String),
    /// It, or its VMM, has ended.
    Ended(String),
    /// It cannot be claimed, or that was called off.
    Failed(HostError),
}

/// A piece of work, or none.
pub(super) struct Work(Option<Pin<Box<dyn Future<Output = Finished> + Send>>>);

impl Work {
    pub(super) fn none() -> Self {
        Self(None)
    }

    pub(super) fn new(work: impl Future<Output = Finished> + Send + 'static) -> Self {
        Self(Some(Box::pin(work)))
    }
}

impl Future for Work {
    type Output = Finished;

    fn poll(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> Poll<Finished> {
        match &mut self.0 {
            Some(work) => work.as_mut().poll(context),
            None => Poll::Pending,
        }
    }
}

/// What a piece of work may look at.
pub(super) struct Context {
    pub(super) shared: Arc<Shared>,
    pub(super) call: Call,
    pub(super) spec: SandboxSpec,
    /// None until they came from the keeper of an adopted one.
    pub(super) secrets: Option<Arc<SandboxSecrets>>,
    pub(super) dir: PathBuf,
    pub(super) facts: watch::Sender<SandboxFacts>,
    pub(super) cancel: CancellationToken,
}

impl Context {
    /// What is known once the network is planned.
    pub(super) fn note_plan(facts: &mut SandboxFacts, plan: &NetPlan) {
        facts.netns = Some(plan.netns.clone());
        facts.uid = Some(plan.uid);
        facts.guest_ip = Some(atoll_net::GUEST.to_string());
        if plan.network == Network::Internet {
            facts.interface = Some(plan.interface.clone());
            facts.host_ip = Some(plan.netns_address.to_string());
        }
    }

    /// Notes how long a phase took, and what else is known now.
    pub(super) fn phase(&self, name: &str, since: Instant, also: impl FnOnce(&mut SandboxFacts)) {
        let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.facts.send_modify(|facts| {
            facts.phases.push(Phase { name: name.into(), micros });
            also(facts);
        });
    }

    /// Between two steps: whether to go on.
    pub(super) fn called_off(&self) -> Result<(), HostError> {
        if self.cancel.is_cancelled() { Err(being_destroyed()) } else { Ok(()) }
    }

    /// A wait, unless it is called off first. What changes something outside is never wrapped in this: it is awaited to its
    /// end, or the release would begin while it still works.
    pub(super) async fn or_cancelled<T>(
        &self,
        work: impl Future<Output = Result<T, HostError>>,
    ) -> Result<T, HostError> {
        tokio::select! {
            done = work => done,
            () = self.cancel.cancelled() => Err(being_destroyed()),
        }
    }
}

fn being_destroyed() -> HostError {
    HostError::WrongState { state: "being destroyed".into() }
}
