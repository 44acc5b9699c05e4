//! Answering requests.
//!
//! How it works: a request is answered at once, or noted until QEMU answers the command that it became, or a chain of steps ends.
//!
//! Deliberately absent: waiting.

use std::os::fd::{FromRawFd as _, OwnedFd};
use std::time::Instant;

use serde_json::{Value, json};

use super::keeper::{Keeper, Waiting};
use super::restore::Restoring;
use crate::protocol::{Answer, Event, Line, MAX_STREAMS, OLDEST, Op, Refusal, Request, State, VERSION};

/// Bytes of the console in one answer.
const CONSOLE_PIECE: usize = 64 * 1024;

/// What comes of a request now.
enum Now {
    Done(Answer),
    /// With descriptors.
    With(Answer, Vec<OwnedFd>),
    /// QEMU will say.
    Later,
}

impl Keeper {
    /// Takes one line of a connection.
    pub(super) fn request(&mut self, number: u64, line: &[u8], now: Instant) {
        let (id, outcome) = match serde_json::from_slice::<Request>(line) {
            Ok(request) => (request.id, self.carry_out(number, &request, now)),
            Err(_) => {
                let value: Value = serde_json::from_slice(line).unwrap_or_default();
                let op: String = value["op"].as_str().unwrap_or("").chars().take(32).collect();
                let message = format!("`{op}` is not a request of protocol version {VERSION}");
                (value["id"].as_u64().unwrap_or(0), Err(Refusal::new("unknown", message)))
            }
        };
        let (line, descriptors) = match outcome {
            Ok(Now::Later) => return,
            Ok(Now::Done(ok)) => (Line::Done { id, ok }, Vec::new()),
            Ok(Now::With(ok, descriptors)) => (Line::Done { id, ok }, descriptors),
            Err(error) => (Line::Failed { id, error }, Vec::new()),
        };
        if let Some(connection) = self.connection(number) {
            connection.say(&line, descriptors);
        }
    }

    fn carry_out(&mut self, number: u64, request: &Request, now: Instant) -> Result<Now, Refusal> {
        if request.op.needs_claim() && self.claimant != Some(number) {
            return Err(Refusal::new("not_claimant", format!("`{}` is for the claimant alone", request.op.name())));
        }
        let op = &request.op;
        if self.connection(number).is_some_and(|connection| connection.version < op.since()) {
            let message = format!("`{}` is of protocol version {}, which was not settled on", op.name(), op.since());
            return Err(Refusal::new("version", message));
        }
        let done = |answer| Ok(Now::Done(answer));
        match &request.op {
            Op::Hello { version } => done(self.hello(number, *version)?),
            Op::Claim { number: claim } => done(self.take_claim(number, *claim)?),
            Op::State => done(Answer::State(Box::new(self.state()))),
            Op::SecretsPut { secrets } => {
                self.secrets = Some(secrets.clone());
                done(Answer::Empty)
            }
            Op::SecretsGet => done(Answer::Secrets(self.secrets.clone())),
            Op::Pause => {
                self.unhindered("pause")?;
                self.expect_stop("asked");
                Ok(self.ask_qemu(number, request.id, "stop", &Value::Null, now))
            }
            Op::Resume => {
                self.unhindered("resume")?;
                Ok(self.ask_qemu(number, request.id, "cont", &Value::Null, now))
            }
            Op::Probe => Ok(self.ask_qemu(number, request.id, "query-status", &Value::Null, now)),
            Op::Kill => done(self.kill()?),
            Op::Streams { count } => Self::streams(*count),
            Op::Console { from } => {
                let (from, bytes) = self.console.from(*from, CONSOLE_PIECE);
                done(Answer::Console { from, data: bytes.iter().map(|b| format!("{b:02x}")).collect() })
            }
            Op::Exit => {
                self.ending = true;
                done(Answer::Empty)
            }
            Op::Snapshot { then } => {
                let files = self.connection(number).and_then(|c| c.take_descriptors(op.descriptors()));
                let files =
                    files.ok_or_else(|| Refusal::new("failed", "the files of the snapshot did not come along"))?;
                self.begin_snapshot((number, request.id), *then, files, now)?;
                Ok(Now::Later)
            }
            Op::AwaitRestore => Ok(self.await_restore((number, request.id))?.map_or(Now::Later, Now::Done)),
            Op::ResizeDisk { bytes } => {
                self.unhindered("resize_disk")?;
                Ok(self.ask_qemu(number, request.id, "block_resize", &json!({"device": "cow", "size": bytes}), now))
            }
            Op::MemoryBase => self.memory_base(),
        }
    }

    /// Refuses while a snapshot or a restore has the VM, or there is none any more.
    pub(super) fn unhindered(&self, what: &str) -> Result<(), Refusal> {
        if self.exited.is_some() {
            return Err(Refusal::new("vmm_gone", "the VMM has ended"));
        }
        match &self.restoring {
            Some(restoring) if !restoring.is_ready() => {
                return Err(Refusal::new("busy", format!("`{what}` must wait for the restore")));
            }
            _ => {}
        }
        match &self.taking {
            Some(taking) if !taking.is_captured() => {
                Err(Refusal::new("busy", format!("`{what}` must wait for the snapshot")))
            }
            _ => Ok(()),
        }
    }

    /// Refuses while any snapshot or restore is under way.
    pub(super) fn idle(&self, what: &str) -> Result<(), Refusal> {
        self.unhindered(what)?;
        if self.taking.is_some() || self.worker.is_some() {
            return Err(Refusal::new("busy", format!("`{what}` must wait for the snapshot before it")));
        }
        Ok(())
    }

    fn memory_base(&self) -> Result<Now, Refusal> {
        let memory = &self.started.memory;
        if !memory.sealed {
            return Err(Refusal::new("failed", "the memory base is a file of this sandbox alone"));
        }
        let copy = memory.file.try_clone().map_err(|e| Refusal::new("failed", e.to_string()))?;
        Ok(Now::With(Answer::MemoryBase, vec![copy.into()]))
    }

    fn hello(&mut self, number: u64, version: u32) -> Result<Answer, Refusal> {
        if version < OLDEST {
            let message = format!("protocol version {version} is too old; this keeper speaks {OLDEST} to {VERSION}");
            return Err(Refusal::new("version", message));
        }
        let version = version.min(VERSION);
        if let Some(connection) = self.connection(number) {
            connection.version = version;
        }
        Ok(Answer::Hello { version, sandbox: self.sandbox.clone(), incarnation: self.incarnation })
    }

    fn take_claim(&mut self, number: u64, claim: u64) -> Result<Answer, Refusal> {
        if claim <= self.claim {
            let message = format!("claim {claim} is not greater than {}", self.claim);
            return Err(Refusal::new("stale_claim", message));
        }
        self.tell(Event::Superseded);
        let old = self.claimant.filter(|old| *old != number);
        if let Some(connection) = old.and_then(|old| self.connection(old)) {
            connection.closing = true;
        }
        self.claim = claim;
        self.claimant = Some(number);
        Ok(Answer::Empty)
    }

    fn state(&self) -> State {
        State {
            vmm_pid: self.started.vmm.pid.as_raw().unsigned_abs(),
            vmm_start: self.started.vmm.start,
            keeper_pid: Self::own_pid(),
            exited: self.exited.map(|(status, _)| status),
            run_state: self.run_state.clone(),
            stopped: self.stopped.clone(),
            claim: self.claim,
            console_offset: self.console.end(),
            vmm_log: self.log.text(),
            phases: self.started.phases.clone(),
            busy: self.busy().map(str::to_owned),
            snapshot: self.last_snapshot.clone(),
        }
    }

    fn busy(&self) -> Option<&'static str> {
        let restoring = self.restoring.as_ref().is_some_and(Restoring::is_under_way);
        if self.taking.is_some() { Some("snapshot") } else { restoring.then_some("restore") }
    }

    fn ask_qemu(&mut self, connection: u64, request: u64, command: &str, arguments: &Value, now: Instant) -> Now {
        let token = self.next_token;
        self.next_token += 1;
        self.qmp.command(token, command, arguments, now);
        self.waiting.push(Waiting { token, connection, request });
        Now::Later
    }

    /// QEMU answered what became of a request, or did not in time.
    pub(super) fn request_answered(&mut self, token: u64, result: Result<Value, String>) {
        let Some(index) = self.waiting.iter().position(|w| w.token == token) else { return };
        let waiting = self.waiting.swap_remove(index);
        let answer = result.map(|_| Answer::Empty).map_err(|message| Refusal::new("vmm_silent", message));
        self.reply(waiting.connection, waiting.request, answer);
    }

    /// Answers a request late; one whose connection is gone needs none.
    pub(super) fn reply(&mut self, connection: u64, id: u64, answer: Result<Answer, Refusal>) {
        let line = match answer {
            Ok(ok) => Line::Done { id, ok },
            Err(error) => Line::Failed { id, error },
        };
        if let Some(connection) = self.connection(connection) {
            connection.say(&line, Vec::new());
        }
    }

    /// Kills the VMM.
    pub(super) fn kill(&mut self) -> Result<Answer, Refusal> {
        if self.exited.is_some() {
            return Ok(Answer::Empty);
        }
        // SAFETY: the pidfd is open and names our own child; the info pointer may be null.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd(),
                libc::SIGKILL,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        match std::io::Error::last_os_error() {
            _ if sent == 0 => Ok(Answer::Empty),
            error if error.raw_os_error() == Some(libc::ESRCH) => Ok(Answer::Empty),
            error => Err(Refusal::new("failed", error.to_string())),
        }
    }

    /// Sockets of the sandbox's network, not connected: a connect here would hold everything up.
    fn streams(count: usize) -> Result<Now, Refusal> {
        if count == 0 || count > MAX_STREAMS {
            return Err(Refusal::new("too_large", format!("{count} streams; between 1 and {MAX_STREAMS}")));
        }
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let mut sockets = Vec::with_capacity(count);
        for _ in 0..count {
            // SAFETY: socket() takes no pointers.
            let fd = unsafe { libc::socket(libc::AF_INET, kind, 0) };
            if fd < 0 {
                return Err(Refusal::new("failed", std::io::Error::last_os_error().to_string()));
            }
            // SAFETY: the descriptor is fresh and owned by nobody else.
            sockets.push(unsafe { OwnedFd::from_raw_fd(fd) });
        }
        Ok(Now::With(Answer::Streams(count), sockets))
    }
}
