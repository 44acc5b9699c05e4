//! Bringing a machine to where its snapshot was taken.
//!
//! How it works: QEMU waits with `-incoming defer`; a worker puts the diff into its memory and verifies every digest; then QEMU loads the
//! state of the devices and stands still until `resume`. A restore that fails kills the VMM: nothing half restored runs.
//!
//! Deliberately absent: trying again; a keeper starts one VMM.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::keeper::Keeper;
use super::worker::{Word, Worker};
use crate::KeeperError;
use crate::jail::{MemoryBase, MemoryFiles, Restore};
use crate::memory::digest_of;
use crate::memory::inject::inject;
use crate::protocol::{Answer, Refusal};

/// The token of the commands of this chain.
pub(super) const TOKEN: u64 = u64::MAX - 2;
/// How long QEMU may take to load the state.
const LOAD_LIMIT: Duration = Duration::from_secs(30);

/// Where a restore is.
#[derive(Debug)]
pub(super) enum Progress {
    /// Before QEMU answers, or while the worker works.
    Preparing,
    /// `migrate-set-capabilities` was sent.
    Asking,
    /// QEMU loads, at most until then.
    Loading(Instant),
    /// `resume` may come.
    Ready,
    /// Never.
    Failed(Refusal),
}

/// A restore, under way or over.
#[derive(Debug)]
pub(super) struct Restoring {
    files: Restore,
    pub(super) progress: Progress,
    /// `(connection, request)` of those who wait.
    waiting: Vec<(u64, u64)>,
}

impl Restoring {
    pub(super) fn new(files: Restore) -> Self {
        Self { files, progress: Progress::Preparing, waiting: Vec::new() }
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.progress, Progress::Ready)
    }

    pub(super) fn is_preparing(&self) -> bool {
        matches!(self.progress, Progress::Preparing)
    }

    pub(super) fn is_under_way(&self) -> bool {
        !matches!(self.progress, Progress::Ready | Progress::Failed(_))
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        if let Progress::Loading(at) = self.progress { Some(at) } else { None }
    }
}

impl Keeper {
    /// QEMU takes commands now.
    pub(super) fn begin_restore(&mut self) {
        let Some(restoring) = &self.restoring else { return };
        let Some(vmm) = &self.started.vmm.memory else {
            return self.fail_restore(Refusal::new("failed", "the VMM's memory could not be opened at its start"));
        };
        let memory = &self.started.memory;
        let started = Worker::start(|_| load(vmm, memory, &restoring.files));
        match started {
            Ok(worker) => self.worker = Some(worker),
            Err(error) => self.fail_restore(Refusal::new(error.code(), error.chain())),
        }
    }

    /// The worker said something.
    pub(super) fn restore_word(&mut self, word: Word, now: Instant) {
        let Some(restoring) = &mut self.restoring else { return };
        match word {
            Word::Loaded => {
                restoring.progress = Progress::Asking;
                let arguments = json!({"capabilities": [{"capability": "events", "state": true}]});
                self.qmp.command(TOKEN, "migrate-set-capabilities", &arguments, now);
            }
            Word::Failed(refusal) => self.fail_restore(refusal),
            Word::Read | Word::Taken(_) => {}
        }
    }

    /// QEMU answered a command of the chain.
    pub(super) fn restore_answered(&mut self, result: Result<Value, String>, now: Instant) {
        let Some(restoring) = &mut self.restoring else { return };
        match (&restoring.progress, result) {
            (_, Err(message)) => self.fail_restore(Refusal::new("failed", message)),
            (Progress::Asking, Ok(_)) => {
                restoring.progress = Progress::Loading(now + LOAD_LIMIT);
                let arguments = json!({"uri": format!("fd:{}", restoring.files.state_fd)});
                self.qmp.command(TOKEN, "migrate-incoming", &arguments, now);
            }
            // Loading has begun; its end is an event.
            _ => {}
        }
    }

    /// QEMU tells how far the loading is.
    pub(super) fn migration_event(&mut self, status: &str, now: Instant) {
        let Some(restoring) = &mut self.restoring else { return };
        match (&restoring.progress, status) {
            (Progress::Loading(_), "completed") => {
                restoring.progress = Progress::Ready;
                let waiting = std::mem::take(&mut restoring.waiting);
                // It was started with -S. The status that QEMU tells comes after those who wait were answered.
                self.run_state = "paused".into();
                self.own("query-status", now);
                for (connection, request) in waiting {
                    self.reply(connection, request, Ok(Answer::Empty));
                }
            }
            (Progress::Loading(_), "failed") => {
                self.fail_restore(Refusal::new("corrupt", "the VMM cannot load the state of the devices"));
            }
            _ => {}
        }
    }

    /// Ends the VMM and says why.
    pub(super) fn fail_restore(&mut self, refusal: Refusal) {
        let Some(restoring) = &mut self.restoring else { return };
        if !restoring.is_under_way() {
            return;
        }
        restoring.progress = Progress::Failed(refusal.clone());
        let waiting = std::mem::take(&mut restoring.waiting);
        // One that is gone already is as good.
        let _ = self.kill();
        for (connection, request) in waiting {
            self.reply(connection, request, Err(refusal.clone()));
        }
    }

    /// `await_restore`: `None` means later.
    pub(super) fn await_restore(&mut self, asker: (u64, u64)) -> Result<Option<Answer>, Refusal> {
        match &mut self.restoring {
            None => Err(Refusal::new("failed", "this machine did not begin from a snapshot")),
            Some(Restoring { progress: Progress::Ready, .. }) => Ok(Some(Answer::Empty)),
            Some(Restoring { progress: Progress::Failed(refusal), .. }) => Err(refusal.clone()),
            Some(restoring) => {
                restoring.waiting.push(asker);
                Ok(None)
            }
        }
    }

    /// A state that takes too long to load.
    pub(super) fn restore_overdue(&mut self, now: Instant) {
        if self.restoring.as_ref().and_then(Restoring::deadline).is_some_and(|at| at <= now) {
            self.fail_restore(Refusal::new("vmm_silent", "the VMM did not load the state within 30 s"));
        }
    }
}

/// The worker's part.
fn load(vmm: &MemoryFiles, memory: &MemoryBase, files: &Restore) -> Result<Word, KeeperError> {
    let (state, expected) = &files.state;
    if digest_of(state)?.0 != *expected {
        return Err(KeeperError::Digest { what: "device state" });
    }
    if let Some((diff, digest)) = &files.diff {
        inject(vmm, &memory.file, memory.bytes, diff, *digest)?;
    }
    Ok(Word::Loaded)
}
