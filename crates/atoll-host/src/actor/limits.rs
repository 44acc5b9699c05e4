//! How long a sandbox may run without being asked for.
//!
//! How it works: `atoll_domain::ttl` says when its time is over; this is the timer that an actor waits on while its sandbox runs. The
//! expiry that pauses waits for its turn among the pauses while the sandbox runs on, so that a use calls it off until then. The
//! last use is kept in a file of the sandbox's directory, on the clock that never jumps, so that the next Atoll goes on with it, and
//! counts a few seconds more, in which a use need not have been written down. A pause that failed is tried again after a minute.
//!
//! A paused sandbox that is to be destroyed at its deadline is, as if it ran; no other limit counts while it is paused.
//!
//! Deliberately absent: what else than a stream into the guest counts as a use: the control plane says so.

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use atoll_domain::actor::{Event, State};
use atoll_domain::host::{HostError, SandboxFacts, SandboxSpec};
use atoll_domain::ttl::{self, Cause, Lifetime, OnExpiry, Timer};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use super::Actor;
use crate::clock;
use crate::data_dir::put;
use crate::history::History;
use crate::journal::Entry;

const FILE: &str = "used";
/// How often a use is written down at most.
const WRITE_EVERY_MS: u64 = 5_000;
const RETRY_MS: u64 = 60_000;
/// A sleep is cut into pieces, because the runtime's clock stands still while the machine sleeps.
const LONGEST: Duration = Duration::from_secs(30);

/// The limits of one sandbox.
pub(super) struct Limits {
    timer: Timer,
    written: u64,
    /// Not before then, after a pause that failed.
    not_before: u64,
    may_pause: Arc<AtomicBool>,
    queue: Option<Queue>,
    turn: Option<OwnedSemaphorePermit>,
}

/// A place among those who wait to be paused.
type Queue = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

impl Limits {
    pub(super) fn new(lifetime: Lifetime, may_pause: Arc<AtomicBool>) -> Self {
        let timer = Timer::begin(lifetime, clock::now());
        Self { timer, written: 0, not_before: 0, may_pause, queue: None, turn: None }
    }

    /// A life begins.
    pub(super) fn begin(&mut self) {
        self.timer = Timer::begin(self.timer.lifetime(), clock::now());
        (self.written, self.not_before) = (0, 0);
    }

    /// A life goes on that an earlier Atoll watched.
    pub(super) fn go_on(&mut self, dir: &Path) {
        let now = clock::now();
        // Adopted is only what runs since this boot of the machine, whose clock both are of.
        let born = History::read(dir).ok().and_then(|history| history.running().and_then(|processes| processes.steady));
        let born = born.unwrap_or(now.steady);
        let used = std::fs::read_to_string(dir.join(FILE)).ok().and_then(|text| text.trim().parse().ok());
        // Later uses may not have been written down: rather a few seconds late than before its time.
        let used = used.map_or(born, |used: u64| used + WRITE_EVERY_MS);
        self.timer = Timer::go_on(self.timer.lifetime(), born, used, now);
    }

    /// It was used.
    pub(super) fn used(&mut self, dir: &Path) {
        let steady = clock::steady();
        self.timer.used(steady);
        if steady.saturating_sub(self.written) >= WRITE_EVERY_MS {
            self.written = steady;
            if let Err(error) = put(&dir.join(FILE), steady.to_string().as_bytes(), 0o600) {
                tracing::debug!(%error, "a use could not be written down");
            }
        }
    }

    pub(super) fn pause_failed(&mut self) {
        self.not_before = clock::steady() + RETRY_MS;
    }

    /// Ends when the time is over and, if that means a pause, it is the sandbox's turn. Dropping this keeps the place in the queue.
    /// Of a paused one: when it is to be destroyed.
    pub(super) async fn over(&mut self, pauses: &Arc<Semaphore>, paused: bool) {
        if paused {
            return self.kept_long_enough().await;
        }
        loop {
            let now = clock::steady();
            let at = self.timer.due().map(|due| due.at.max(self.not_before));
            if at.is_none_or(|at| at > now) {
                self.leave_queue();
            }
            match at {
                None => return std::future::pending().await,
                Some(at) if at > now => tokio::time::sleep(Duration::from_millis(at - now).min(LONGEST)).await,
                Some(_) if self.timer.lifetime().on_expiry == OnExpiry::Destroy => return,
                Some(_) => {
                    let enqueue = || Box::pin(Arc::clone(pauses).acquire_owned()) as Queue;
                    let turn = self.queue.get_or_insert_with(enqueue).await;
                    self.queue = None;
                    // The semaphore is never closed.
                    self.turn = turn.ok();
                    return;
                }
            }
        }
    }

    async fn kept_long_enough(&mut self) {
        loop {
            let Some(at) = self.timer.destroyed_at() else { return std::future::pending().await };
            let now = clock::steady();
            if at <= now {
                return;
            }
            tokio::time::sleep(Duration::from_millis(at - now).min(LONGEST)).await;
        }
    }

    /// The turn that was waited for, for the pause that begins now.
    pub(super) fn take_turn(&mut self) -> Option<OwnedSemaphorePermit> {
        self.turn.take()
    }

    /// Nothing is to be paused now: a place that nobody asks about would be given a turn all the same, and keep it from the others.
    pub(super) fn leave_queue(&mut self) {
        (self.queue, self.turn) = (None, None);
    }
}

impl Actor {
    /// What the sandbox's owner wants to happen now.
    pub(super) fn time_is_over(&mut self) -> Option<Event> {
        let lifetime = self.limits.timer.lifetime();
        let cause = self.limits.timer.expired(clock::steady())?;
        tracing::info!(sandbox.id = %self.id(), cause = cause.as_str(), "a sandbox's time is over");
        match lifetime.on_expiry {
            OnExpiry::Pause => {
                self.waiting.pause_for(cause);
                Some(Event::Pause)
            }
            OnExpiry::Destroy => {
                self.reason = cause.as_str().into();
                self.ended = true;
                Some(Event::Destroy)
            }
        }
    }

    /// A paused sandbox's deadline has come, and its owner wants it gone then.
    pub(super) fn kept_long_enough(&mut self) -> Event {
        let cause = Cause::Deadline;
        tracing::info!(sandbox.id = %self.id(), cause = cause.as_str(), "a paused sandbox's time is over");
        self.reason = cause.as_str().into();
        self.ended = true;
        Event::Destroy
    }

    /// It was used. Of one that is being given back that changes nothing any more.
    pub(super) fn used(&mut self, state: State) {
        if !is_going(state) {
            self.limits.used(&self.dir);
        }
    }

    /// The limits that the journal of a found one says.
    pub(crate) fn limited(self, limits: ttl::Limits) -> Self {
        self.facts.send_modify(|facts| facts.limits = limits);
        self
    }

    /// Takes new limits over; what is no newer than those that are there was heard before, or was overtaken on its way.
    pub(super) async fn set_lifetime(&mut self, state: State, limits: ttl::Limits) -> Result<(), HostError> {
        if is_going(state) {
            return Err(HostError::WrongState { state: state.as_str().into() });
        }
        if !limits.supersede(&self.facts.borrow().limits) {
            return Ok(());
        }
        self.context().journal(Entry::Lifetime(limits)).await?;
        let lifetime = limits.lifetime;
        self.spec.lifetime = lifetime;
        self.facts.send_modify(|facts| facts.limits = limits);
        self.limits.timer.set(lifetime, clock::now());
        self.limits.not_before = 0;
        self.limits.may_pause.store(lifetime.may_pause(), Ordering::Relaxed);
        self.limits.used(&self.dir);
        Ok(())
    }
}

/// Whether its directory may be going right now: then nothing is written into it, or its removal would meet a file that comes or goes.
fn is_going(state: State) -> bool {
    matches!(state, State::Cancelling | State::Releasing | State::Stuck | State::Gone)
}

/// The facts of one whose limits nobody has changed.
pub(super) fn as_made(facts: SandboxFacts, spec: &SandboxSpec) -> SandboxFacts {
    SandboxFacts { limits: ttl::Limits { lifetime: spec.lifetime, revision: 0 }, ..facts }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn is_over(limits: &mut Limits, pauses: &Arc<Semaphore>) -> bool {
        tokio::time::timeout(Duration::ZERO, limits.over(pauses, false)).await.is_ok()
    }

    /// Limits whose time is over.
    async fn expired(pauses: &Arc<Semaphore>) -> Limits {
        let lifetime = Lifetime { timeout_sec: 1, ..Lifetime::default() };
        let mut limits = Limits::new(lifetime, Arc::default());
        let now = clock::now();
        limits.timer = Timer::go_on(lifetime, now.steady.saturating_sub(5_000), now.steady.saturating_sub(5_000), now);
        assert!(!is_over(&mut limits, pauses).await, "it waits for its turn");
        limits
    }

    #[tokio::test]
    async fn a_use_calls_off_a_pause_that_waits_for_its_turn_and_keeps_no_turn_from_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let pauses = Arc::new(Semaphore::new(1));
        let other = Arc::clone(&pauses).acquire_owned().await.unwrap();
        let (mut used, mut next, mut left) = (expired(&pauses).await, expired(&pauses).await, expired(&pauses).await);
        used.used(dir.path());
        assert!(!is_over(&mut used, &pauses).await);
        left.leave_queue();
        drop(other);
        assert!(!is_over(&mut used, &pauses).await, "it was used meanwhile");
        assert!(is_over(&mut next, &pauses).await, "the place is the next one's");
        assert_eq!(pauses.available_permits(), 0);
        drop(next.take_turn().unwrap());
        assert_eq!(pauses.available_permits(), 1);
    }
}
