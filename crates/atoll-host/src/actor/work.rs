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

use atoll_domain::host::{Call, HostError, Phase, SandboxFacts, SandboxSecrets, SandboxSpec};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::boot::Alive;
use crate::agent::Shared;

/// What came of a piece of work.
pub(super) enum Finished {
    Prepared(Result<(), HostError>),
    Booted(Result<Box<Alive>, HostError>),
    Released(Result<(), HostError>),
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
    pub(super) secrets: Arc<SandboxSecrets>,
    pub(super) dir: PathBuf,
    pub(super) facts: watch::Sender<SandboxFacts>,
    pub(super) cancel: CancellationToken,
}

impl Context {
    /// Notes how long a phase took, and what else is known now.
    pub(super) fn phase(&self, name: &str, since: Instant, also: impl FnOnce(&mut SandboxFacts)) {
        let micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.facts.send_modify(|facts| {
            facts.phases.push(Phase { name: name.into(), micros });
            also(facts);
        });
    }

    /// The work, unless it is called off first.
    pub(super) async fn or_cancelled<T>(
        &self,
        work: impl Future<Output = Result<T, HostError>>,
    ) -> Result<T, HostError> {
        tokio::select! {
            done = work => done,
            () = self.cancel.cancelled() => Err(HostError::WrongState { state: "being destroyed".into() }),
        }
    }
}
