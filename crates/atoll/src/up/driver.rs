//! The host agent of the same process, as the control plane's host.
//!
//! How it works: every call goes straight to [`HostAgent`]; nothing is shared besides its messages, so that a driver over the wire can
//! take its place.
//!
//! Deliberately absent: any rule.

use atoll_control::ports::HostDriver;
use atoll_domain::SandboxId;
use atoll_domain::host::{
    Call, CreateSandbox, Destroyed, EventSeq, HostCapacity, HostError, HostEvent, MakeTemplate, PauseMode,
    ResumeSandbox, SandboxFacts, SandboxSecrets, TemplateFacts,
};
use atoll_domain::metrics::{Joined, Point, Tier};
use atoll_domain::record::Paused;
use atoll_domain::scrub::Scrubbed;
use atoll_domain::ttl::Limits;
use atoll_guest_client::GuestStream;
use atoll_host::HostAgent;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};
use tokio::sync::mpsc;

/// Drives the host agent of this process.
#[derive(Debug, Clone)]
pub(crate) struct InProcess(pub(crate) HostAgent);

impl HostDriver for InProcess {
    fn create(&self, call: Call, request: CreateSandbox) -> BoxFuture<'_, Result<SandboxFacts, HostError>> {
        self.0.create(call, request).boxed()
    }

    fn destroy(&self, call: Call, id: SandboxId) -> BoxFuture<'_, Result<Destroyed, HostError>> {
        self.0.destroy(call, id).boxed()
    }

    fn pause(&self, call: Call, id: SandboxId, mode: PauseMode) -> BoxFuture<'_, Result<Paused, HostError>> {
        self.0.pause(call, id, mode).boxed()
    }

    fn resume(
        &self,
        call: Call,
        id: SandboxId,
        request: ResumeSandbox,
    ) -> BoxFuture<'_, Result<SandboxFacts, HostError>> {
        self.0.resume(call, id, request).boxed()
    }

    fn make_template(
        &self,
        call: Call,
        id: SandboxId,
        request: MakeTemplate,
    ) -> BoxFuture<'_, Result<TemplateFacts, HostError>> {
        self.0.make_template(call, id, request).boxed()
    }

    fn drop_template(&self, template: String) -> BoxFuture<'_, Result<(), HostError>> {
        self.0.drop_template(template).boxed()
    }

    fn templates(&self) -> BoxFuture<'_, Result<Vec<String>, HostError>> {
        ready(Ok(self.0.templates())).boxed()
    }

    fn set_lifetime(&self, id: SandboxId, limits: Limits) -> BoxFuture<'_, Result<(), HostError>> {
        async move { self.0.set_lifetime(&id, limits).await }.boxed()
    }

    fn touch(&self, ids: Vec<SandboxId>) -> BoxFuture<'_, Result<(), HostError>> {
        async move {
            self.0.touch(&ids).await;
            Ok(())
        }
        .boxed()
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<SandboxFacts>, HostError>> {
        ready(Ok(self.0.list())).boxed()
    }

    fn inspect(&self, id: SandboxId) -> BoxFuture<'_, Result<SandboxFacts, HostError>> {
        ready(self.0.inspect(&id)).boxed()
    }

    fn secrets(&self, id: SandboxId) -> BoxFuture<'_, Result<SandboxSecrets, HostError>> {
        async move { self.0.secrets(&id).await }.boxed()
    }

    fn watch(&self, from: EventSeq) -> BoxFuture<'_, Result<mpsc::Receiver<HostEvent>, HostError>> {
        ready(Ok(self.0.watch(from))).boxed()
    }

    fn latest_event(&self) -> BoxFuture<'_, Result<EventSeq, HostError>> {
        ready(Ok(self.0.latest_event())).boxed()
    }

    fn acknowledge(&self, seq: EventSeq) -> BoxFuture<'_, Result<(), HostError>> {
        self.0.acknowledge(seq).boxed()
    }

    fn console(&self, id: SandboxId) -> BoxFuture<'_, Result<Vec<u8>, HostError>> {
        async move { self.0.console(&id).await }.boxed()
    }

    fn open_stream(&self, id: SandboxId, port: u16) -> BoxFuture<'_, Result<GuestStream, HostError>> {
        async move { self.0.open_stream(&id, port).await }.boxed()
    }

    fn metrics(&self, id: SandboxId, tier: Tier) -> BoxFuture<'_, Result<Vec<Point>, HostError>> {
        async move { self.0.metrics(&id, tier).await }.boxed()
    }

    fn flush_metrics(&self, id: SandboxId) -> BoxFuture<'_, Result<Vec<Joined>, HostError>> {
        async move { self.0.flush_metrics(&id).await }.boxed()
    }

    fn scrub(&self) -> BoxFuture<'_, Result<Scrubbed, HostError>> {
        self.0.scrub().boxed()
    }

    fn capacity(&self) -> BoxFuture<'_, Result<HostCapacity, HostError>> {
        self.0.capacity().boxed()
    }
}
