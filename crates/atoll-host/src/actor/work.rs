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
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Instant;

use atoll_domain::Network;
use atoll_domain::host::{
    Call, GuestToken, HostError, HostEventKind, Phase, SandboxFacts, SandboxSecrets, SandboxSpec,
};
use atoll_domain::record::Paused;
use atoll_domain::snapshot::Platform;
use atoll_net::NetPlan;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::copying::CopyOutcome;
use super::going_on::Thawing;
use super::pausing::PauseOutcome;
use super::vmm::{self, Alive};
use crate::error::{failed, join_failed, stopping};
use crate::history::History;
use crate::journal::{Entry, Journal, Kept, Sources};
use crate::ready::Ready;
use crate::shared::Shared;
use crate::sources::{self, By, Places};

/// What came of a piece of work.
pub(super) enum Finished {
    Prepared(Result<(), HostError>),
    Booted(Result<Box<Alive>, HostError>),
    Adopted(Adoption),
    Paused(PauseOutcome),
    Settled,
    /// With what is kept after a failure.
    Resumed(Result<Box<Alive>, (HostError, Box<Kept>)>),
    Copied(CopyOutcome),
    Released(Result<(), HostError>),
}

/// What came of claiming an earlier Atoll's keeper.
pub(super) enum Adoption {
    /// It is ours; with what it held in its memory, and its user code, if that still stands still.
    Done(Box<Alive>, Arc<SandboxSecrets>, Thawing),
    /// It is newer than this Atoll.
    TooNew(String),
    /// It, or its VMM, has ended.
    Ended(String),
    /// The same in a resume that had not come to its end: this is what stays, in the life of this call.
    FellBack(Call, Box<Kept>),
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
#[derive(Clone)]
pub(super) struct Context {
    pub(super) shared: Arc<Shared>,
    pub(super) call: Call,
    pub(super) spec: SandboxSpec,
    /// None until they came from the keeper of an adopted one.
    pub(super) secrets: Option<Arc<SandboxSecrets>>,
    /// Of a copy that is being made: the token that its agent has until it is told its own.
    pub(super) inherited: Option<GuestToken>,
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

    /// A line of the sandbox's journal; on disk when this returns.
    pub(super) async fn journal(&self, entry: Entry) -> Result<(), HostError> {
        let dir = self.dir.clone();
        let written = tokio::task::spawn_blocking(move || Journal::open(&dir)?.write(&entry));
        written.await.map_err(join_failed)?.map_err(|e| failed(&e))
    }

    /// What the sandbox's journal says.
    pub(super) async fn history(&self) -> Result<History, HostError> {
        let dir = self.dir.clone();
        let read = tokio::task::spawn_blocking(move || History::read(&dir));
        read.await.map_err(join_failed)?.map_err(|e| failed(&e))
    }

    /// Tells something through the event stream; a failure is logged, as nobody waits for it.
    pub(super) async fn tell(&self, kind: HostEventKind) {
        if let Err(error) = self.shared.tell(&self.dir, &self.spec.id, self.call.incarnation, kind).await {
            tracing::error!(sandbox.id = %self.spec.id, %error, "an event could not be written down");
        }
    }

    /// Whether the event stream told of this pause.
    pub(super) async fn was_told(&self, kept: &Paused) -> bool {
        let told = |event: &atoll_domain::host::HostEvent| matches!(&event.kind, HostEventKind::Paused { paused, .. } if paused.at == kept.at);
        self.history().await.is_ok_and(|history| history.told().any(told))
    }

    /// The right to start a VM; waited for before anything is started.
    pub(super) async fn boot_permit(&self) -> Result<tokio::sync::SemaphorePermit<'_>, HostError> {
        let permit = self.shared.boots.acquire().await;
        permit.map_err(|_| stopping())
    }

    /// What this host gives to the sandbox's guest, started from `sources`.
    pub(super) fn platform(&self, ready: &Ready, sources: &Sources) -> Platform {
        vmm::platform(&self.shared, &self.spec, &self.dir, ready, sources)
    }

    /// Where the files lie that its VM is started from.
    pub(super) fn places(&self) -> Places<'_> {
        [("the cache", self.shared.config.cache.root()), ("the sandbox's directory", self.dir.as_path())]
    }

    /// They are there, as far as that way of starting needs them.
    pub(super) async fn sources_there(&self, sources: &Sources, by: By) -> Result<(), HostError> {
        let (context, sources) = (self.clone(), sources.clone());
        let looked = tokio::task::spawn_blocking(move || sources::there(&sources, by, &context.places()));
        looked.await.map_err(join_failed)?
    }

    /// The token of the sandbox's agent, if it is known.
    pub(super) fn token(&self) -> Option<&GuestToken> {
        self.secrets.as_deref().map(|secrets| &secrets.token)
    }

    /// Between two steps: whether to go on.
    pub(super) fn called_off(&self) -> Result<(), HostError> {
        if self.cancel.is_cancelled() { Err(self.why_called_off()) } else { Ok(()) }
    }

    fn why_called_off(&self) -> HostError {
        called_off(&self.shared)
    }

    /// Whether the sandbox is being destroyed, as [`Context::destroyed`] has it.
    pub(super) fn is_destroyed(&self) -> bool {
        // In this order: whoever sees that a stop called this off sees the stop, too.
        self.cancel.is_cancelled() && !self.shared.stopping.is_cancelled()
    }

    /// Ends when the sandbox is being destroyed. Not when Atoll leaves it: then what goes on is waited for, or user code would stand
    /// still until the next start.
    pub(super) async fn destroyed(&self) {
        self.cancel.cancelled().await;
        if self.shared.stopping.is_cancelled() {
            std::future::pending::<()>().await;
        }
    }

    /// A wait, unless the sandbox is being destroyed first: of one that a stop waits for.
    pub(super) async fn or_destroyed<T>(
        &self,
        work: impl Future<Output = Result<T, HostError>>,
    ) -> Result<T, HostError> {
        tokio::select! {
            done = work => done,
            () = self.destroyed() => Err(being_destroyed()),
        }
    }

    /// A wait, unless it is called off first. What changes something outside is never wrapped in this: it is awaited to its
    /// end, or the release would begin while it still works.
    pub(super) async fn or_cancelled<T>(
        &self,
        work: impl Future<Output = Result<T, HostError>>,
    ) -> Result<T, HostError> {
        tokio::select! {
            done = work => done,
            () = self.cancel.cancelled() => Err(self.why_called_off()),
        }
    }
}

/// Why what was asked of a sandbox is not done, once it is called off.
pub(super) fn called_off(shared: &Shared) -> HostError {
    // A stop that ends everything first destroys, and then stops.
    let stops = shared.stopping.is_cancelled() || shared.closing.load(Ordering::SeqCst);
    if stops { stopping() } else { being_destroyed() }
}

pub(super) fn being_destroyed() -> HostError {
    HostError::WrongState { state: "being destroyed".into() }
}
