//! What an actor hears: of its keeper, and of the work that ended.
//!
//! How it works: each is turned into an event for `atoll_domain::actor`, and what came along is kept.
//!
//! Deliberately absent: what follows from it.

use atoll_domain::actor::Event;
use atoll_domain::host::{HostEventKind, SandboxFacts};
use atoll_keeper::protocol::Event as KeeperEvent;

use super::copying::CopyOutcome;
use super::going_on::Thawing;
use super::pausing::PauseOutcome;
use super::vmm::Alive;
use super::work::{Adoption, Finished};
use super::{Actor, adopt};

/// What comes of a running VM.
pub(super) enum Heard {
    /// The keeper said something; nothing any more when it is gone.
    Said(Option<KeeperEvent>),
    /// Keeper or VMM give no sign of life.
    Hangs(String),
}

/// Waits for the next word of a running VM.
pub(super) async fn next(alive: &mut Option<Alive>) -> Heard {
    match alive {
        Some(alive) => tokio::select! {
            biased;
            said = alive.events.recv() => Heard::Said(said),
            reason = &mut alive.watch => Heard::Hangs(reason),
        },
        None => std::future::pending().await,
    }
}

impl Actor {
    /// The keeper said something, or is gone, or hangs.
    pub(super) async fn heard(&mut self, heard: Heard) -> Option<Event> {
        match heard {
            Heard::Hangs(reason) => {
                self.reason = reason;
                Some(Event::Ended)
            }
            Heard::Said(None) => {
                self.reason = "the keeper ended".into();
                Some(Event::Ended)
            }
            Heard::Said(Some(KeeperEvent::VmmExited { status, log })) => {
                tracing::warn!(sandbox.id = %self.id(), status, log = %log.trim(), "a VMM ended");
                self.reason = exit_reason(status);
                Some(Event::Ended)
            }
            Heard::Said(Some(KeeperEvent::Superseded)) => {
                tracing::error!(sandbox.id = %self.id(), "another Atoll claimed the keeper; the sandbox is its own now");
                Some(Event::Leave)
            }
            Heard::Said(Some(KeeperEvent::Stopped { reason })) if reason == adopt::DISK_FULL => {
                self.halted(true, HostEventKind::DiskFull).await;
                None
            }
            // Said to whoever waits for the snapshot.
            Heard::Said(Some(KeeperEvent::Stopped { .. } | KeeperEvent::Captured)) => None,
            Heard::Said(Some(KeeperEvent::Resumed)) => {
                self.halted(false, HostEventKind::Resumed).await;
                None
            }
        }
    }

    /// The VM met a full disk, or goes on.
    async fn halted(&mut self, halted: bool, kind: HostEventKind) {
        let Some(alive) = &mut self.alive else { return };
        if !halted && !alive.halted {
            // Its processors begin to run after a restore, too.
            return;
        }
        alive.halted = halted;
        alive.watch.set_halted(halted);
        let sockets = alive.sockets.clone();
        // Its clock stood still with it, perhaps for hours.
        self.thawing = if halted { Thawing::none() } else { Thawing::begin(self.context(), sockets) };
        if let Err(error) = self.shared.tell(&self.dir, self.id(), self.call.incarnation, kind).await {
            tracing::error!(sandbox.id = %self.id(), %error, "an event could not be written down");
        }
    }

    pub(super) fn finished(&mut self, finished: Finished) -> Event {
        match finished {
            Finished::Prepared(Ok(())) => Event::Prepared,
            Finished::Booted(Ok(alive)) => {
                self.alive = Some(*alive);
                self.limits.begin();
                self.follow();
                Event::Booted
            }
            Finished::Adopted(Adoption::Done(alive, secrets, thawing)) => {
                tracing::info!(sandbox.id = %self.id(), "took a running sandbox over");
                self.secrets.send_replace(Some(secrets));
                self.thawing = thawing;
                self.alive = Some(*alive);
                self.limits.go_on(&self.dir);
                self.follow();
                Event::Adopted
            }
            Finished::Adopted(Adoption::TooNew(why)) => {
                tracing::error!(sandbox.id = %self.id(), %why, "a sandbox of a newer Atoll is left running");
                self.reason = format!("kept by a newer Atoll ({why}); start that one to use it");
                Event::TooNew
            }
            Finished::Adopted(Adoption::FellBack(call, kept)) => {
                tracing::warn!(sandbox.id = %self.id(), "a resume failed while no Atoll ran; the disk stays");
                self.facts.send_modify(|facts| facts.incarnation = call.incarnation);
                self.call = call;
                self.kept = Some(*kept);
                Event::FellBack
            }
            Finished::Adopted(Adoption::Ended(why)) => {
                tracing::warn!(sandbox.id = %self.id(), %why, "a sandbox ended while no Atoll ran");
                if !self.waiting.is_being_destroyed() {
                    self.reason = why;
                }
                Event::Ended
            }
            Finished::Adopted(Adoption::Failed(error)) => {
                tracing::warn!(sandbox.id = %self.id(), %error, "a sandbox could not be taken over");
                if !self.waiting.is_being_destroyed() {
                    self.reason =
                        format!("it could not be taken over ({}); the next start of Atoll tries again", error.told());
                }
                Event::WorkFailed
            }
            Finished::Prepared(Err(error)) | Finished::Booted(Err(error)) => {
                tracing::warn!(sandbox.id = %self.id(), %error, "a step of the start failed");
                // What fails once it is called off fails by that.
                let error = if self.cancel.is_cancelled() { self.why_called_off() } else { error };
                if !self.waiting.is_being_destroyed() {
                    self.reason = error.told();
                }
                self.failure = Some(error);
                Event::WorkFailed
            }
            Finished::Paused(outcome) => self.pause_ended(outcome),
            Finished::Settled => {
                self.settled();
                Event::Settled
            }
            Finished::Resumed(Ok(alive)) => {
                self.resumed(*alive);
                Event::Resumed
            }
            Finished::Resumed(Err((error, kept))) => {
                self.failure = Some(error);
                let paused = kept.paused.clone();
                self.kept = Some(*kept);
                self.facts.send_modify(|facts| {
                    without_vm(facts);
                    facts.paused = Some(paused);
                });
                Event::ResumeFailed
            }
            Finished::Copied(CopyOutcome { alive, kept, result, thawing, ended }) => {
                self.thawing = thawing;
                self.alive = alive.map(|alive| *alive);
                self.kept = kept.map(|kept| *kept).or(self.kept.take());
                self.waiting.note_copy(result);
                match ended {
                    Some(reason) => {
                        self.reason = reason;
                        Event::Ended
                    }
                    None => Event::CopyEnded,
                }
            }
            Finished::Released(Ok(())) => Event::Released,
            Finished::Released(Err(error)) => {
                tracing::error!(sandbox.id = %self.id(), %error, "a sandbox could not be given back whole");
                self.failure = Some(error);
                Event::ReleaseFailed
            }
        }
    }

    fn pause_ended(&mut self, outcome: PauseOutcome) -> Event {
        match outcome {
            PauseOutcome::Committed(alive, kept) => {
                self.alive = Some(*alive);
                self.kept = Some(*kept);
                Event::Committed
            }
            PauseOutcome::Failed(alive, error, thawing) => {
                self.alive = Some(*alive);
                self.thawing = thawing;
                self.failure = Some(error);
                self.limits.pause_failed();
                Event::PauseFailed
            }
            PauseOutcome::Ended(alive, reason) => {
                self.alive = Some(*alive);
                self.failure = Some(atoll_domain::host::HostError::WrongState { state: "stopped".into() });
                self.reason = reason;
                Event::Ended
            }
        }
    }

    fn settled(&mut self) {
        self.follow();
        let kept = self.kept.as_ref().map(|kept| kept.paused.clone());
        self.facts.send_modify(|facts| {
            without_vm(facts);
            facts.paused = kept;
        });
        if let Some(kept) = &self.kept {
            self.flattening = super::Flattening::begin(&self.shared, &self.dir, &self.spec, kept);
        }
    }

    fn resumed(&mut self, alive: Alive) {
        if let Some(call) = self.waiting.resume_call() {
            self.call = call;
        }
        self.alive = Some(alive);
        self.kept = None;
        self.limits.begin();
        self.follow();
        let incarnation = self.call.incarnation;
        self.facts.send_modify(|facts| {
            facts.incarnation = incarnation;
            facts.paused = None;
            facts.state = atoll_domain::host::HostSandboxState::Running;
        });
    }
}

/// Nothing of a VM is there any more.
fn without_vm(facts: &mut SandboxFacts) {
    facts.keeper_pid = None;
    facts.vmm_pid = None;
    facts.netns = None;
    facts.interface = None;
    facts.host_ip = None;
    facts.guest_ip = None;
}

/// For people: how a VMM ended.
pub(super) fn exit_reason(status: i32) -> String {
    match status {
        0 => "the guest powered off or rebooted".into(),
        n if n < 0 => format!("the VMM was killed by signal {}", -n),
        n => format!("the VMM ended with {n}"),
    }
}
