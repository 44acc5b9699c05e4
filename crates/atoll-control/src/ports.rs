//! What the control plane needs from outside: hosts and a clock.
//!
//! How it works: [`HostDriver`] is the one place where control plane and host agent meet. Lifecycle calls carry an
//! operation id and the sandbox's incarnation, changes of limits a revision, and all are idempotent; what a host does by itself arrives through
//! [`HostDriver::watch`]; everything inside a guest is HTTP over [`HostDriver::open_stream`]. Drivers: in-process (in the
//! binary), simulated (atoll-testkit); one over the wire when hosts join.
//!
//! Deliberately absent: exec, files, PTYs: they are the guest agent's, spoken by atoll-guest-client over a stream.

use std::sync::OnceLock;
use std::time::Instant;

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
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

/// A host, as the control plane sees it.
pub trait HostDriver: Send + Sync + 'static {
    /// Makes and boots a sandbox; answers when its guest agent does. Replaying the same operation answers the same.
    fn create(&self, call: Call, request: CreateSandbox) -> BoxFuture<'_, Result<SandboxFacts, HostError>>;

    /// Ends a sandbox; answers when nothing of it is left. Destroy wins over everything that is under way.
    fn destroy(&self, call: Call, id: SandboxId) -> BoxFuture<'_, Result<Destroyed, HostError>>;

    /// Puts a running sandbox on the host's disk; answers when no VM of it is left. Asked again it joins what is under way, and of a
    /// paused one it answers what is kept.
    fn pause(&self, call: Call, id: SandboxId, mode: PauseMode) -> BoxFuture<'_, Result<Paused, HostError>>;

    /// Lets a paused sandbox go on in the call's incarnation, which is greater than the one that was paused; answers when its
    /// agent does. Asked again it joins what is under way, and of one that runs in that life it answers its facts.
    fn resume(
        &self,
        call: Call,
        id: SandboxId,
        request: ResumeSandbox,
    ) -> BoxFuture<'_, Result<SandboxFacts, HostError>>;

    /// Makes a snapshot template of a running or paused sandbox, which returns to the state that it had. The call bears the life that
    /// runs or was paused; that of another is refused.
    fn make_template(
        &self,
        call: Call,
        id: SandboxId,
        request: MakeTemplate,
    ) -> BoxFuture<'_, Result<TemplateFacts, HostError>>;

    /// Drops a template; its files go when nothing rests on them any more. One that is not there is no error.
    fn drop_template(&self, template: String) -> BoxFuture<'_, Result<(), HostError>>;

    /// The templates that the host keeps, for the comparison with what is written down.
    fn templates(&self) -> BoxFuture<'_, Result<Vec<String>, HostError>>;

    /// Gives a sandbox new limits; counts as a use. They are the sandbox's in all of its lives, so it is not a life that orders two
    /// changes but their revision: what is no newer than what the host keeps to changes nothing, and is no error.
    fn set_lifetime(&self, id: SandboxId, limits: Limits) -> BoxFuture<'_, Result<(), HostError>>;

    /// Says that sandboxes were used since the last time: requests and bytes, never our own polls. What is not there is left out.
    fn touch(&self, ids: Vec<SandboxId>) -> BoxFuture<'_, Result<(), HostError>>;

    /// All sandboxes that the host has.
    fn list(&self) -> BoxFuture<'_, Result<Vec<SandboxFacts>, HostError>>;

    /// One of them; [`HostError::Stopping`] for what runs on a host that stops.
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

    /// What a running (or paused) sandbox used, at one resolution, the oldest first.
    fn metrics(&self, id: SandboxId, tier: Tier) -> BoxFuture<'_, Result<Vec<Point>, HostError>>;

    /// Everything that a running (or paused) sandbox used, at all resolutions, with what was incomplete closed. Sampling goes on.
    fn flush_metrics(&self, id: SandboxId) -> BoxFuture<'_, Result<Vec<Joined>, HostError>>;

    /// Reads everything again that the host keeps, for as long as that takes, and names what does not hold what it must. Changes nothing.
    fn scrub(&self) -> BoxFuture<'_, Result<Scrubbed, HostError>>;

    /// What the host can take.
    fn capacity(&self) -> BoxFuture<'_, Result<HostCapacity, HostError>>;
}

/// The time, so that rules about it can be tested.
pub trait Clock: Send + Sync + 'static {
    /// Microseconds since 1970, UTC: for when something was, never for how long it took, as it may be set meanwhile.
    fn now_micros(&self) -> i64;

    /// Microseconds of a clock that never jumps, since some moment of this process: for how long something took.
    fn steady_micros(&self) -> i64;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_micros(&self) -> i64 {
        jiff::Timestamp::now().as_microsecond()
    }

    fn steady_micros(&self) -> i64 {
        static BEGAN: OnceLock<Instant> = OnceLock::new();
        i64::try_from(BEGAN.get_or_init(Instant::now).elapsed().as_micros()).unwrap_or(i64::MAX)
    }
}
