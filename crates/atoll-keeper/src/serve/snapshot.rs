//! Taking a snapshot of the running VM.
//!
//! How it works: a chain of steps, each begun by the answer of the one before, so that nothing waits:
//!
//! ```text
//!   stop ─> pass the state's file ─> save devices ─> take the file back ─> read memory ─> put on disk ─> answer
//!                                                                            └─ `captured`, and `cont` if it is to go on
//! ```
//!
//! A VM that ran and whose snapshot fails goes on running.
//!
//! Deliberately absent: the disk, which is the host agent's to copy while the VM stands still.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::keeper::Keeper;
use super::worker::{Word, Worker};
use crate::KeeperError;
use crate::jail::{MemoryBase, MemoryFiles};
use crate::memory::capture::capture;
use crate::memory::digest_of;
use crate::protocol::{Answer, Event, Refusal, Snapshot, Then};

/// The token of the commands of this chain.
pub(super) const TOKEN: u64 = u64::MAX - 1;
/// The token of the `cont` at its end. Another one: a late answer to a step that was given up is not taken for this one's.
pub(super) const CONTINUE: u64 = u64::MAX - 3;
/// How long a step may take. `stop` writes the guest's disk back first, which takes as long as the host's disk needs: a slow one
/// is no reason to give a snapshot up.
const STEP_LIMIT: Duration = Duration::from_mins(10);
/// The number of QEMU's set with the state's file.
const FDSET: u64 = 9;

/// Where the chain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Stop,
    Pass,
    Save,
    TakeBack,
    Read,
    /// What is left may be the disk, or the answer to `cont`, or both.
    Finish,
}

/// A snapshot under way.
#[derive(Debug)]
pub(super) struct Taking {
    connection: u64,
    request: u64,
    then: Then,
    /// Whether the VM ran when it began.
    ran: bool,
    step: Step,
    /// The state's file for QEMU, until it is passed on.
    state_out: Option<OwnedFd>,
    state: File,
    diff: File,
    /// `cont` was sent and not answered.
    continuing: bool,
    failure: Option<Refusal>,
    taken: Option<Box<Snapshot>>,
    phases: Vec<(String, u64)>,
    last: Instant,
}

impl Taking {
    /// Whether everything of the VM is read, so that it may run again.
    pub(super) fn is_captured(&self) -> bool {
        self.step == Step::Finish
    }

    /// Whether the worker has had its last word.
    pub(super) fn has_outcome(&self) -> bool {
        self.failure.is_some() || self.taken.is_some()
    }

    fn end(&mut self, phase: &str, now: Instant) {
        let micros = u64::try_from((now - self.last).as_micros()).unwrap_or(u64::MAX);
        self.phases.push((phase.into(), micros));
        self.last = now;
    }
}

impl Keeper {
    /// Begins; the answer comes later.
    pub(super) fn begin_snapshot(
        &mut self,
        (connection, request): (u64, u64),
        then: Then,
        files: Vec<OwnedFd>,
        now: Instant,
    ) -> Result<(), Refusal> {
        self.idle("snapshot")?;
        if self.started.vmm.memory.is_none() {
            return Err(Refusal::new("failed", "the VMM's memory could not be opened at its start"));
        }
        let Ok([state_out, state, diff]) = <[OwnedFd; 3]>::try_from(files) else {
            return Err(Refusal::new("failed", "a snapshot needs the state's file twice and the diff's"));
        };
        self.taking = Some(Taking {
            connection,
            request,
            then,
            ran: self.run_state == "running",
            step: Step::Stop,
            state_out: Some(state_out),
            state: state.into(),
            diff: diff.into(),
            continuing: false,
            failure: None,
            taken: None,
            phases: Vec::new(),
            last: now,
        });
        self.expect_stop("asked");
        self.next_step("stop", &Value::Null, None, now);
        Ok(())
    }

    fn next_step(&mut self, command: &str, arguments: &Value, file: Option<OwnedFd>, now: Instant) {
        self.qmp.command_with(TOKEN, command, arguments, file, STEP_LIMIT, now);
    }

    fn let_go_on(&mut self, now: Instant) {
        self.qmp.command_with(CONTINUE, "cont", &Value::Null, None, STEP_LIMIT, now);
    }

    /// QEMU answered a command of the chain.
    pub(super) fn snapshot_answered(&mut self, result: Result<Value, String>, now: Instant) {
        let Some(taking) = &mut self.taking else { return };
        if let Err(message) = &result
            && taking.step != Step::TakeBack
            && taking.failure.is_none()
        {
            taking.failure = Some(Refusal::new("failed", message.clone()));
        }
        let failed = taking.failure.is_some();
        match taking.step {
            Step::Stop if !failed => {
                taking.end("stop", now);
                taking.step = Step::Pass;
                let file = taking.state_out.take();
                self.next_step("add-fd", &json!({"fdset-id": FDSET}), file, now);
            }
            Step::Pass if !failed => {
                taking.step = Step::Save;
                let arguments = json!({"filename": format!("/dev/fdset/{FDSET}"), "live": false});
                self.next_step("xen-save-devices-state", &arguments, None, now);
            }
            Step::Save => {
                taking.end("devices", now);
                taking.step = Step::TakeBack;
                self.next_step("remove-fd", &json!({"fdset-id": FDSET}), None, now);
            }
            Step::TakeBack if !failed => {
                taking.step = Step::Read;
                self.start_reading(now);
            }
            Step::Finish => {
                taking.continuing = false;
                self.finish_snapshot();
            }
            _ => self.give_up_snapshot(now),
        }
    }

    fn start_reading(&mut self, now: Instant) {
        let (Some(taking), Some(vmm)) = (&self.taking, &self.started.vmm.memory) else { return };
        let memory = &self.started.memory;
        let started = Worker::start(|say| take(vmm, memory, &taking.state, &taking.diff, say));
        match started {
            Ok(worker) => self.worker = Some(worker),
            Err(error) => self.fail_snapshot(Refusal::new(error.code(), error.chain()), now),
        }
    }

    /// The worker said something.
    pub(super) fn snapshot_word(&mut self, word: Word, now: Instant) {
        let Some(taking) = &mut self.taking else { return };
        match word {
            Word::Read => {
                taking.end("dump", now);
                taking.step = Step::Finish;
                let goes_on = taking.then == Then::Resume && taking.ran;
                taking.continuing = goes_on;
                self.tell(Event::Captured);
                if goes_on {
                    self.let_go_on(now);
                }
            }
            Word::Taken(mut snapshot) => {
                taking.end("disk", now);
                snapshot.phases.clone_from(&taking.phases);
                taking.taken = Some(snapshot);
                let exits = taking.then == Then::Exit;
                self.finish_snapshot();
                if exits {
                    // One that is gone already is as good.
                    let _ = self.kill();
                }
            }
            Word::Failed(refusal) => self.fail_snapshot(refusal, now),
            Word::Loaded => {}
        }
    }

    /// Something of the chain failed.
    pub(super) fn fail_snapshot(&mut self, refusal: Refusal, now: Instant) {
        let Some(taking) = &mut self.taking else { return };
        taking.failure.get_or_insert(refusal);
        self.give_up_snapshot(now);
    }

    /// Lets a VM go on that ran, and answers then.
    fn give_up_snapshot(&mut self, now: Instant) {
        let Some(taking) = &mut self.taking else { return };
        let stands = self.exited.is_none() && self.run_state != "running";
        let goes_on = taking.ran && stands && !taking.continuing;
        taking.step = Step::Finish;
        if goes_on {
            taking.continuing = true;
            self.let_go_on(now);
        }
        self.finish_snapshot();
    }

    /// Answers once nothing is left to wait for.
    fn finish_snapshot(&mut self) {
        let gone = self.exited.is_some();
        let over = |taking: &mut Taking| (gone || !taking.continuing) && taking.has_outcome();
        let Some(taking) = self.taking.take_if(over) else { return };
        self.last_snapshot.clone_from(&taking.taken);
        let answer = match (taking.failure, taking.taken) {
            (Some(refusal), _) => Err(refusal),
            (None, Some(snapshot)) => Ok(Answer::Snapshot(snapshot)),
            (None, None) => Err(Refusal::new("failed", "the snapshot ended without an outcome")),
        };
        self.reply(taking.connection, taking.request, answer);
    }
}

/// The worker's part.
fn take(
    vmm: &MemoryFiles,
    memory: &MemoryBase,
    state: &File,
    diff: &File,
    say: &mut dyn FnMut(Word),
) -> Result<Word, KeeperError> {
    let written = capture(vmm, &memory.file, memory.bytes, diff)?;
    say(Word::Read);
    let (state_digest, state_bytes) = digest_of(state)?;
    state.sync_all().map_err(KeeperError::step("put the device state on disk"))?;
    diff.sync_all().map_err(KeeperError::step("put the memory diff on disk"))?;
    Ok(Word::Taken(Box::new(Snapshot {
        state_digest,
        state_bytes,
        diff_digest: written.digest,
        diff_bytes: written.bytes,
        data_pages: written.data_pages,
        zero_pages: written.zero_pages,
        phases: Vec::new(),
    })))
}
