//! The host agent of the same process, as the control plane's host.
//!
//! How it works: every call goes straight to [`HostAgent`]; nothing is shared besides its messages, so that a driver over the wire can
//! take its place.
//!
//! Deliberately absent: any rule.

use atoll_control::ports::HostDriver;
use atoll_domain::SandboxId;
use atoll_domain::host::{
    Call, CreateSandbox, Destroyed, EventSeq, HostCapacity, HostError, HostEvent, SandboxFacts, SandboxSecrets,
};
use atoll_domain::metrics::{Joined, Point, Tier};
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
        ready(self.0.metrics(&id, tier)).boxed()
    }

    fn flush_metrics(&self, id: SandboxId) -> BoxFuture<'_, Result<Vec<Joined>, HostError>> {
        ready(self.0.flush_metrics(&id)).boxed()
    }

    fn capacity(&self) -> BoxFuture<'_, Result<HostCapacity, HostError>> {
        self.0.capacity().boxed()
    }
}
