//! A child that does what must wait.
//!
//! How it works: the keeper has one thread, so it may fork; the child has the same memory and descriptors, works as long as it takes,
//! says words through a pipe and ends. It dies with the keeper. Its buffers are never the keeper's, and while it waits
//! for a disk the keeper answers.
//!
//! Deliberately absent: more than one at a time.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid, pipe2};
use serde::{Deserialize, Serialize};

use crate::KeeperError;
use crate::protocol::{Refusal, Snapshot};

/// Longer than any word.
const MAX_INPUT: usize = 64 * 1024;

/// What a worker says; all but `Read` are its last.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Word {
    /// The guest's memory is read.
    Read,
    /// A snapshot is on disk.
    Taken(Box<Snapshot>),
    /// Everything of a restore is verified and in the VMM's memory.
    Loaded,
    /// It failed.
    Failed(Refusal),
}

/// A running child.
#[derive(Debug)]
pub(super) struct Worker {
    pid: Pid,
    pipe: OwnedFd,
    input: Vec<u8>,
}

impl Worker {
    /// Starts a child that does `work`; what it returns is its last word.
    pub(super) fn start(
        work: impl FnOnce(&mut dyn FnMut(Word)) -> Result<Word, KeeperError>,
    ) -> Result<Self, KeeperError> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(KeeperError::errno("make a pipe"))?;
        fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(KeeperError::errno("make a pipe non-blocking"))?;
        let keeper = getpid();
        // SAFETY: this process has one thread, so the child may do anything a process may.
        match unsafe { fork() }.map_err(KeeperError::errno("start a worker"))? {
            ForkResult::Parent { child } => Ok(Self { pid: child, pipe: read, input: Vec::new() }),
            ForkResult::Child => {
                let done = catch_unwind(AssertUnwindSafe(|| run(keeper, File::from(write), work)));
                let code = if done.is_ok() { 0 } else { 99 };
                // SAFETY: _exit ends the child without running the keeper's exit handlers.
                unsafe { libc::_exit(code) }
            }
        }
    }

    /// Takes what the child said; `true` with it when the child has ended.
    pub(super) fn hear(&mut self) -> (Vec<Word>, bool) {
        let mut buffer = [0; 4096];
        let ended = match nix::unistd::read(&self.pipe, &mut buffer) {
            Ok(0) => true,
            Ok(n) => {
                self.input.extend_from_slice(&buffer[..n]);
                self.input.len() > MAX_INPUT
            }
            Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => false,
            Err(_) => true,
        };
        let mut words = Vec::new();
        while let Some(end) = self.input.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.input.drain(..=end).collect();
            words.extend(serde_json::from_slice::<Word>(&line));
        }
        (words, ended)
    }
}

impl AsFd for Worker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Ended by itself in the usual case; then this finds a zombie.
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}

/// Runs in the child.
fn run(keeper: Pid, mut pipe: File, work: impl FnOnce(&mut dyn FnMut(Word)) -> Result<Word, KeeperError>) {
    let asked = prctl::set_pdeathsig(Signal::SIGKILL);
    if asked.is_err() || getppid() != keeper {
        return;
    }
    let mut say = |word: Word| {
        let Ok(mut line) = serde_json::to_vec(&word) else { return };
        line.push(b'\n');
        // A keeper that is gone needs no answer.
        let _ = pipe.write_all(&line);
    };
    let last = work(&mut say).unwrap_or_else(|error| Word::Failed(Refusal::new(error.code(), error.chain())));
    say(last);
}
