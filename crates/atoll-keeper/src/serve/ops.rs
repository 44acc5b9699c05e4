//! Answering requests.
//!
//! How it works: a request is answered at once, or noted until QEMU answers the command that it became.
//!
//! Deliberately absent: waiting.

use std::os::fd::{FromRawFd as _, OwnedFd};
use std::time::Instant;

use serde_json::Value;

use super::keeper::{Keeper, Waiting};
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
        let done = |answer| Ok(Now::Done(answer));
        match &request.op {
            Op::Hello { version } => done(self.hello(*version)?),
            Op::Claim { number: claim } => done(self.take_claim(number, *claim)?),
            Op::State => done(Answer::State(Box::new(self.state()))),
            Op::SecretsPut { secrets } => {
                self.secrets = Some(secrets.clone());
                done(Answer::Empty)
            }
            Op::SecretsGet => done(Answer::Secrets(self.secrets.clone())),
            Op::Pause => {
                self.expect_stop("asked");
                self.ask_qemu(number, request.id, "stop", now)
            }
            Op::Resume => self.ask_qemu(number, request.id, "cont", now),
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
        }
    }

    fn hello(&self, version: u32) -> Result<Answer, Refusal> {
        if version < OLDEST {
            let message = format!("protocol version {version} is too old; this keeper speaks {OLDEST} to {VERSION}");
            return Err(Refusal::new("version", message));
        }
        let version = version.min(VERSION);
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
            claim: self.claim,
            console_offset: self.console.end(),
            vmm_log: self.log.text(),
            phases: self.started.phases.clone(),
        }
    }

    fn ask_qemu(&mut self, connection: u64, request: u64, command: &str, now: Instant) -> Result<Now, Refusal> {
        if self.exited.is_some() {
            return Err(Refusal::new("vmm_gone", "the VMM has ended"));
        }
        let token = self.next_token;
        self.next_token += 1;
        self.qmp.command(token, command, &Value::Null, now);
        self.waiting.push(Waiting { token, connection, request });
        Ok(Now::Later)
    }

    /// QEMU answered, or did not in time.
    pub(super) fn answered(&mut self, token: u64, result: Result<Value, String>) {
        let Some(index) = self.waiting.iter().position(|w| w.token == token) else { return };
        let waiting = self.waiting.swap_remove(index);
        let id = waiting.request;
        let line = match result {
            Ok(_) => Line::Done { id, ok: Answer::Empty },
            Err(message) => Line::Failed { id, error: Refusal::new("vmm_silent", message) },
        };
        if let Some(connection) = self.connection(waiting.connection) {
            connection.say(&line, Vec::new());
        }
    }

    fn kill(&mut self) -> Result<Answer, Refusal> {
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
