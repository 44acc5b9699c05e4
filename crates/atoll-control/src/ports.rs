//! What the control plane needs from outside: hosts and a clock.
//!
//! How it works: [`HostDriver`] is the one place where control plane and host agent meet. Lifecycle calls carry an
//! operation id and the sandbox's incarnation and are idempotent; what a host does by itself arrives through
//! [`HostDriver::watch`]; everything inside a guest is HTTP over [`HostDriver::open_stream`]. Drivers: in-process (in the
//! binary), simulated (atoll-testkit); one over the wire when hosts join.
//!
//! Deliberately absent: exec, files, PTYs: they are the guest agent's, spoken by atoll-guest-client over a stream.

use atoll_domain::SandboxId;
use atoll_domain::host::{
    Call, CreateSandbox, Destroyed, EventSeq, HostCapacity, HostError, HostEvent, SandboxFacts, SandboxSecrets,
};
use atoll_domain::metrics::{Joined, Point, Tier};
use atoll_guest_client::GuestStream;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

/// A host, as the control plane sees it.
pub trait HostDriver: Send + Sync + 'static {
    /// Makes and boots a sandbox; answers when its guest agent does. Replaying the same operation answers the same.
    fn create(&self, call: Call, request: CreateSandbox) -> BoxFuture<'_, Result<SandboxFacts, HostError>>;

    /// Ends a sandbox; answers when nothing of it is left. Destroy wins over everything that is under way.
    fn destroy(&self, call: Call, id: SandboxId) -> BoxFuture<'_, Result<Destroyed, HostError>>;

    /// All sandboxes that the host has.
    fn list(&self) -> BoxFuture<'_, Result<Vec<SandboxFacts>, HostError>>;

    /// One of them.
    fn inspect(&self, id: SandboxId) -> BoxFuture<'_, Result<SandboxFacts, HostError>>;

    /// Token and environment of a running sandbox, as its keeper holds them.
    fn secrets(&self, id: SandboxId) -> BoxFuture<'_, Result<SandboxSecrets, HostError>>;

    /// Events after `from`, oldest first, then live; the channel is bounded and ends with the host.
    fn watch(&self, from: EventSeq) -> BoxFuture<'_, Result<mpsc::Receiver<HostEvent>, HostError>>;

    /// The number of the last event that there was; 0 before the first.
    fn latest_event(&self) -> BoxFuture<'_, Result<EventSeq, HostError>>;

    /// Tells the host that everything up to `seq` is stored and may be forgotten.
    fn acknowledge(&self, seq: EventSeq) -> BoxFuture<'_, Result<(), HostError>>;

    /// What a sandbox's console said last (256 KiB at most): text out of a guest, hostile to terminals.
    fn console(&self, id: SandboxId) -> BoxFuture<'_, Result<Vec<u8>, HostError>>;

    /// A fresh byte stream to a TCP port of the guest.
    fn open_stream(&self, id: SandboxId, port: u16) -> BoxFuture<'_, Result<GuestStream, HostError>>;

    /// What a running sandbox used, at one resolution, the oldest first.
    fn metrics(&self, id: SandboxId, tier: Tier) -> BoxFuture<'_, Result<Vec<Point>, HostError>>;

    /// Everything that a running sandbox used, at all resolutions, with what was incomplete closed. The sampling goes on.
    fn flush_metrics(&self, id: SandboxId) -> BoxFuture<'_, Result<Vec<Joined>, HostError>>;

    /// What the host can take.
    fn capacity(&self) -> BoxFuture<'_, Result<HostCapacity, HostError>>;
}

/// The time, so that rules about it can be tested.
pub trait Clock: Send + Sync + 'static {
    /// Microseconds since 1970, UTC.
    fn now_micros(&self) -> i64;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_micros(&self) -> i64 {
        jiff::Timestamp::now().as_microsecond()
    }
}
