//! The calls about a sandbox's life: pause, resume, templates, limits, uses, metrics.
//!
//! How it works: each is a message to the sandbox's actor, and its answer; what is asked of a sandbox that is not there is `NotFound`.
//!
//! Deliberately absent: what an actor does.

use std::sync::atomic::Ordering;

use atoll_domain::host::{
    Call, HostError, HostSandboxState, MakeTemplate, PauseMode, ResumeSandbox, SandboxFacts, TemplateFacts,
};
use atoll_domain::metrics::{Joined, Point, Rings, Tier};
use atoll_domain::objects::Holder;
use atoll_domain::record::Paused;
use atoll_domain::ttl::Limits;
use atoll_domain::{SandboxId, Shape};
use tokio::sync::oneshot;

use crate::actor::{Message, Reply};
use crate::error::{failed, join_failed, silent};
use crate::metrics::Metrics;
use crate::{HostAgent, admission};

impl HostAgent {
    async fn ask<T>(&self, id: &SandboxId, message: impl FnOnce(Reply<T>) -> Message) -> Result<T, HostError> {
        let handle = self.handle(id).ok_or(HostError::NotFound)?;
        let (reply, answer) = oneshot::channel();
        handle.mailbox.send(message(reply)).await.map_err(|_| self.unanswered(id))?;
        answer.await.map_err(|_| self.unanswered(id))?
    }

    /// Why a sandbox's actor gave no answer: it ended with its sandbox, or leaves it to the next start.
    pub(crate) fn unanswered(&self, id: &SandboxId) -> HostError {
        match self.handle(id) {
            None => HostError::NotFound,
            Some(_) => silent(&self.shared),
        }
    }

    /// Puts a running sandbox on the disk; answers when no VM of it is left.
    ///
    /// # Errors
    /// No such sandbox, a state in which that cannot be, no space, or an agent that does not write the disk back (mode `disk`).
    pub async fn pause(&self, call: Call, id: SandboxId, mode: PauseMode) -> Result<Paused, HostError> {
        self.ask(&id, |reply| Message::Pause { call: Some(call), mode, reply }).await
    }

    /// The same by the host itself: the event stream tells of it.
    pub(crate) async fn pause_by_host(&self, id: &SandboxId) -> Result<Paused, HostError> {
        self.ask(id, |reply| Message::Pause { call: None, mode: PauseMode::Memory, reply }).await
    }

    /// Lets a paused sandbox go on; answers when its agent does.
    ///
    /// # Errors
    /// No such sandbox, a state in which that cannot be, memory that cannot be used here, damage, or a host agent that is stopping.
    pub async fn resume(&self, call: Call, id: SandboxId, request: ResumeSandbox) -> Result<SandboxFacts, HostError> {
        self.ask(&id, |reply| Message::Resume { call, request, reply }).await
    }

    /// Makes a snapshot template of a running or paused sandbox.
    ///
    /// # Errors
    /// No such sandbox, another life of it, a state in which that cannot be, no space, an agent that is busy.
    pub async fn make_template(
        &self,
        call: Call,
        id: SandboxId,
        request: MakeTemplate,
    ) -> Result<TemplateFacts, HostError> {
        self.ask(&id, |reply| Message::Copy { call, request, reply }).await
    }

    /// Drops a template; its files go with the last that rests on them.
    ///
    /// # Errors
    /// What could not be removed; the template is dropped all the same, and the next start tries again.
    pub async fn drop_template(&self, template: String) -> Result<(), HostError> {
        let objects = self.shared.objects.clone();
        let dropped = tokio::task::spawn_blocking(move || objects.release(&Holder::Template { id: template }));
        dropped.await.map_err(join_failed)?.map_err(|e| failed(&e))
    }

    /// The ids of all templates.
    pub fn templates(&self) -> Vec<String> {
        let id = |holder| match holder {
            Holder::Template { id } => Some(id),
            _ => None,
        };
        self.shared.objects.holders().into_iter().filter_map(id).collect()
    }

    /// Gives a sandbox new limits, unless it has newer ones.
    ///
    /// # Errors
    /// No such sandbox, limits that may pause it where that does not fit on the disk, or a journal that cannot be written.
    pub async fn set_lifetime(&self, id: &SandboxId, limits: Limits) -> Result<(), HostError> {
        let handle = self.handle(id).ok_or(HostError::NotFound)?;
        // A paused one has its memory on the disk, and is admitted again when it is resumed.
        let writes = handle.facts.borrow().state != HostSandboxState::Paused;
        if writes && limits.lifetime.may_pause() && !handle.may_pause_itself.load(Ordering::Relaxed) {
            let shape = Shape { vcpus: handle.vcpus, memory_mb: handle.memory_mb, disk_mb: 0 };
            admission::check_limits(self.shared.data.root(), shape, self.shared.promised(Some(id)))?;
        }
        self.ask(id, |reply| Message::Lifetime(limits, reply)).await
    }

    /// Says that sandboxes were used.
    pub async fn touch(&self, ids: &[SandboxId]) {
        for handle in ids.iter().filter_map(|id| self.handle(id)) {
            // Its actor has ended, so there is nothing to use.
            let _ = handle.mailbox.send(Message::Used).await;
        }
    }

    /// What a sandbox used, at one resolution.
    ///
    /// # Errors
    /// [`HostError::NotFound`].
    pub async fn metrics(&self, id: &SandboxId, tier: Tier) -> Result<Vec<Point>, HostError> {
        match self.stored(id).await? {
            Some(rings) => Ok(rings.points(tier)),
            None => Ok(self.shared.metrics.points(id, tier)),
        }
    }

    /// Everything that a sandbox used, at all resolutions, with what was incomplete closed; the sampling goes on.
    ///
    /// # Errors
    /// [`HostError::NotFound`].
    pub async fn flush_metrics(&self, id: &SandboxId) -> Result<Vec<Joined>, HostError> {
        if let Some(rings) = self.stored(id).await? {
            return Ok(rings.all());
        }
        if let Some(points) = self.shared.metrics.flush(id) {
            return Ok(points);
        }
        // Nobody samples it at this moment, because it is being paused: then its file has all of it. A fresh one has none yet.
        let facts = self.handle(id).map(|handle| handle.facts.borrow().clone()).ok_or(HostError::NotFound)?;
        match on_disk(&facts).await? {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(failed(&error)),
            Ok(mut rings) => {
                // As its file will be in a moment.
                rings.close_partial();
                Ok(rings.all())
            }
        }
    }

    /// What is on disk of a sandbox that is not sampled at present.
    async fn stored(&self, id: &SandboxId) -> Result<Option<Rings>, HostError> {
        let facts = self.handle(id).map(|handle| handle.facts.borrow().clone()).ok_or(HostError::NotFound)?;
        // A resume that has not ended changed nothing of it.
        if !matches!(facts.state, HostSandboxState::Paused | HostSandboxState::Resuming) {
            return Ok(None);
        }
        on_disk(&facts).await?.map(Some).map_err(|e| failed(&e))
    }
}

async fn on_disk(facts: &SandboxFacts) -> Result<std::io::Result<Rings>, HostError> {
    let dir = std::path::PathBuf::from(&facts.directory);
    tokio::task::spawn_blocking(move || Metrics::stored(&dir)).await.map_err(join_failed)
}
