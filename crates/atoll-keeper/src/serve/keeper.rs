//! What a keeper knows, and its loop.
//!
//! How it works: [`Keeper::serve`] polls everything, then lets each ready descriptor do a bounded piece of work. Requests are
//! answered in [`super::ops`]; snapshot and restore are chains of steps of their own. QEMU may be an attacker by now: what it
//! says is bounded, and greetings and answers that nobody asked for mean nothing.
//!
//! Deliberately absent: the jail; it stands when this begins.

use std::io::{ErrorKind, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use serde_json::{Value, json};

use super::connection::Connection;
use super::dns::Forwarder;
use super::restore::{self, Restoring};
use super::ring::Ring;
use super::snapshot::{self, Taking};
use super::worker::Worker;
use crate::jail::Started;
use crate::protocol::{Event, Line, Refusal, Snapshot};
use crate::qemu::qmp::{Heard, Qmp};
use crate::{KeeperError, KeeperSpec, wire};

const CONSOLE_BYTES: usize = 256 * 1024;
const LOG_BYTES: usize = 8 * 1024;
const UNCLAIMED: Duration = Duration::from_secs(60);
const AFTER_EXIT: Duration = Duration::from_secs(600);
const MAX_CONNECTIONS: usize = 16;
/// Longest word of QEMU for what it does that is passed on.
const MAX_STATUS: usize = 32;
/// The token of commands that nobody waits for.
const OWN: u64 = u64::MAX;

/// A request that waits for QEMU.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) token: u64,
    pub(super) connection: u64,
    pub(super) request: u64,
}

/// A keeper.
pub(super) struct Keeper {
    pub(super) sandbox: String,
    pub(super) incarnation: u64,
    pub(super) started: Started,
    pub(super) qmp: Qmp,
    pub(super) waiting: Vec<Waiting>,
    pub(super) next_token: u64,
    pub(super) console: Ring,
    pub(super) log: Ring,
    pub(super) dns: Option<Forwarder>,
    pub(super) connections: Vec<Connection>,
    next_connection: u64,
    /// The greatest claim and the connection that made it, while it is open.
    pub(super) claim: u64,
    pub(super) claimant: Option<u64>,
    pub(super) secrets: Option<String>,
    pub(super) exited: Option<(i32, Instant)>,
    pub(super) run_state: String,
    /// Why the virtual CPUs stand still, while they do.
    pub(super) stopped: Option<String>,
    pub(super) ending: bool,
    pub(super) taking: Option<Taking>,
    pub(super) last_snapshot: Option<Box<Snapshot>>,
    pub(super) restoring: Option<Restoring>,
    /// Of the snapshot or the restore.
    pub(super) worker: Option<Worker>,
    /// Whether QEMU has greeted; a second greeting is none of QEMU's.
    greeted: bool,
    /// Why the virtual CPUs are about to stop.
    stop_reason: &'static str,
    born: Instant,
}

impl Keeper {
    pub(super) fn new(spec: &KeeperSpec, mut started: Started) -> Result<Self, KeeperError> {
        let unblock = KeeperError::step("make a socket non-blocking");
        started.qmp.set_nonblocking(true).and_then(|()| started.console.set_nonblocking(true)).map_err(unblock)?;
        Ok(Self {
            sandbox: spec.sandbox.to_string(),
            incarnation: spec.incarnation.0,
            dns: started.dns.take().map(Forwarder::new),
            restoring: started.restore.take().map(Restoring::new),
            started,
            qmp: Qmp::default(),
            waiting: Vec::new(),
            next_token: 1,
            console: Ring::new(CONSOLE_BYTES),
            log: Ring::new(LOG_BYTES),
            connections: Vec::new(),
            next_connection: 1,
            claim: 0,
            claimant: None,
            secrets: None,
            exited: None,
            run_state: "starting".into(),
            stopped: None,
            ending: false,
            taking: None,
            last_snapshot: None,
            worker: None,
            greeted: false,
            stop_reason: "other",
            born: Instant::now(),
        })
    }

    /// Serves until the claimant says `exit`, or nobody wants the sandbox.
    pub(super) fn serve(mut self) -> Result<(), KeeperError> {
        while !self.is_over(Instant::now()) {
            let ready = self.wait()?;
            let now = Instant::now();
            self.dispatch(&ready, now);
            self.overdue(now);
            for connection in &mut self.connections {
                connection.write();
            }
            self.forget_closed();
        }
        // Last words, such as the answer to `exit`, go out if the peer takes them now; the VMM dies with this process.
        for connection in &mut self.connections {
            connection.write();
        }
        Ok(())
    }

    fn is_over(&self, now: Instant) -> bool {
        let unclaimed = self.claim == 0 && now >= self.born + UNCLAIMED;
        let forgotten = self.exited.is_some_and(|(_, at)| now >= at + AFTER_EXIT);
        self.ending || unclaimed || forgotten
    }

    /// When the loop must go round even if nothing happens.
    fn deadline(&self) -> Option<Instant> {
        let unclaimed = (self.claim == 0).then(|| self.born + UNCLAIMED);
        let forgotten = self.exited.map(|(_, at)| at + AFTER_EXIT);
        let dns = self.dns.as_ref().and_then(Forwarder::deadline);
        let restore = self.restoring.as_ref().and_then(Restoring::deadline);
        [unclaimed, forgotten, dns, restore, self.qmp.deadline()].into_iter().flatten().min()
    }

    /// Waits for the next thing; answers what each polled descriptor is ready for, in the order of [`Slot::all`].
    fn wait(&self) -> Result<Vec<(Slot, PollFlags)>, KeeperError> {
        let (read, write) = (PollFlags::POLLIN, PollFlags::POLLOUT);
        let mut slots = Vec::new();
        let mut polled = Vec::new();
        let mut add = |slot, fd, flags| {
            slots.push(slot);
            polled.push(PollFd::new(fd, flags));
        };
        add(Slot::Listener, self.started.listener.as_fd(), read);
        if self.exited.is_none() {
            let out = if self.qmp.output.is_empty() { PollFlags::empty() } else { write };
            add(Slot::Exit, self.started.vmm.pidfd.as_fd(), read);
            add(Slot::Qmp, self.started.qmp.as_fd(), read | out);
            add(Slot::Console, self.started.console.as_fd(), read);
            add(Slot::Log, self.started.log.as_fd(), read);
        }
        if let Some(worker) = &self.worker {
            add(Slot::Worker, worker.as_fd(), read);
        }
        for (index, fd) in self.dns.iter().flat_map(|dns| dns.descriptors()).enumerate() {
            add(Slot::Dns(index), fd, read);
        }
        for connection in &self.connections {
            let out = if connection.wants_to_write() { write } else { PollFlags::empty() };
            add(Slot::Connection(connection.number), connection.socket.as_fd(), read | out);
        }
        let timeout = match self.deadline() {
            None => PollTimeout::NONE,
            // One more millisecond, as the timeout is cut to whole ones.
            Some(at) => {
                let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
        };
        match poll(&mut polled, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(KeeperError::errno("wait for events")(errno)),
        }
        let flags = polled.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        Ok(slots.into_iter().zip(flags).filter(|(_, flags)| !flags.is_empty()).collect())
    }

    fn dispatch(&mut self, ready: &[(Slot, PollFlags)], now: Instant) {
        for (slot, _) in ready {
            match slot {
                Slot::Listener => self.accept(),
                Slot::Console => drain(&mut self.started.console, &mut self.console),
                Slot::Log => self.drain_log(),
                Slot::Qmp => self.talk(now),
                Slot::Exit => self.reap(now),
                Slot::Worker => self.hear_worker(now),
                Slot::Dns(0) => self.dns.iter_mut().for_each(|dns| dns.ask(now)),
                Slot::Dns(index) => self.dns.iter_mut().for_each(|dns| dns.answer(index - 1)),
                Slot::Connection(number) => self.hear(*number, now),
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((socket, _)) = self.started.listener.accept() {
            let root = getsockopt(&socket, PeerCredentials).is_ok_and(|peer| peer.uid() == 0);
            if root && self.connections.len() < MAX_CONNECTIONS && socket.set_nonblocking(true).is_ok() {
                self.connections.push(Connection::new(self.next_connection, socket));
                self.next_connection += 1;
            }
        }
    }

    fn hear(&mut self, number: u64, now: Instant) {
        let Some(connection) = self.connections.iter_mut().find(|c| c.number == number) else { return };
        match connection.read() {
            Ok(lines) => {
                for line in lines {
                    self.request(number, &line, now);
                }
            }
            Err(()) => {
                self.connections.retain(|c| c.number != number);
                self.claimant = self.claimant.filter(|claimant| *claimant != number);
            }
        }
    }

    fn forget_closed(&mut self) {
        let claimant = &mut self.claimant;
        self.connections.retain(|connection| {
            let over = connection.is_over();
            if over && *claimant == Some(connection.number) {
                *claimant = None;
            }
            !over
        });
    }

    fn drain_log(&mut self) {
        let mut buffer = [0; 4096];
        // One piece a round; a pipe that has ended stays readable until the VMM's exit is seen.
        if let Ok(n) = nix::unistd::read(&self.started.log, &mut buffer) {
            self.log.push(&buffer[..n]);
        }
    }

    /// Writes commands to QEMU and takes what it says.
    fn talk(&mut self, now: Instant) {
        self.say_to_qemu();
        let mut buffer = [0; 16 * 1024];
        let heard = match self.started.qmp.read(&mut buffer) {
            Ok(n) => self.qmp.feed(&buffer[..n]),
            Err(_) => return,
        };
        for word in heard {
            match word {
                Heard::Ready if self.greeted => {}
                Heard::Ready => {
                    self.greeted = true;
                    self.own("qmp_capabilities", now);
                }
                Heard::Answer { token, result } => self.answered(token, result, now),
                Heard::Event { name, data } => self.qemu_event(&name, &data, now),
                Heard::Garbage(_) => {}
            }
        }
    }

    /// Writes one command, which may come with a descriptor.
    fn say_to_qemu(&mut self) {
        let Some((line, descriptor)) = self.qmp.output.front_mut() else { return };
        let raw: Vec<i32> = descriptor.iter().map(|fd| fd.as_raw_fd()).collect();
        if let Ok(n) = wire::send(self.started.qmp.as_fd(), line, &raw) {
            *descriptor = None;
            line.drain(..n);
            if line.is_empty() {
                self.qmp.output.pop_front();
            }
        }
    }

    pub(super) fn own(&mut self, command: &str, now: Instant) {
        self.qmp.command(OWN, command, &Value::Null, now);
    }

    /// QEMU answered a command, or did not in time.
    fn answered(&mut self, token: u64, result: Result<Value, String>, now: Instant) {
        match token {
            OWN => self.own_answer(&result.unwrap_or_default(), now),
            snapshot::TOKEN | snapshot::CONTINUE => self.snapshot_answered(result, now),
            restore::TOKEN => self.restore_answered(result, now),
            token => self.request_answered(token, result),
        }
    }

    /// Capabilities answer nothing; then the status is asked for, which answers `{"status": …}`.
    fn own_answer(&mut self, value: &Value, now: Instant) {
        match value.get("status").and_then(Value::as_str) {
            Some(status) => self.run_state = status.chars().take(MAX_STATUS).collect(),
            None if self.run_state == "starting" => {
                self.run_state = "started".into();
                self.own("query-status", now);
                self.begin_restore();
            }
            None => {}
        }
    }

    fn hear_worker(&mut self, now: Instant) {
        let Some(worker) = &mut self.worker else { return };
        let (words, ended) = worker.hear();
        if ended {
            self.worker = None;
        }
        for word in words {
            if self.taking.is_some() { self.snapshot_word(word, now) } else { self.restore_word(word, now) }
        }
        if ended {
            // Without effect on what has had its last word.
            let lost = Refusal::new("failed", "the worker ended without a word");
            if self.taking.as_ref().is_some_and(|taking| !taking.has_outcome()) {
                self.fail_snapshot(lost, now);
            } else if self.restoring.as_ref().is_some_and(Restoring::is_preparing) {
                self.fail_restore(lost);
            }
        }
    }

    fn qemu_event(&mut self, name: &str, data: &Value, now: Instant) {
        match name {
            "MIGRATION" => self.migration_event(data.get("status").and_then(Value::as_str).unwrap_or(""), now),
            "BLOCK_IO_ERROR" if data.get("nospace") == Some(&json!(true)) => self.stop_reason = "disk_full",
            "STOP" => {
                self.run_state = "paused".into();
                let reason = std::mem::replace(&mut self.stop_reason, "other").to_owned();
                self.stopped = Some(reason.clone());
                self.tell(Event::Stopped { reason });
            }
            "RESUME" => {
                self.run_state = "running".into();
                self.stopped = None;
                self.tell(Event::Resumed);
            }
            "SHUTDOWN" => self.run_state = "shutdown".into(),
            _ => {}
        }
    }

    /// Notes why the next stop happens.
    pub(super) fn expect_stop(&mut self, reason: &'static str) {
        self.stop_reason = reason;
    }

    fn overdue(&mut self, now: Instant) {
        for token in self.qmp.overdue(now) {
            self.answered(token, Err("no answer in time".into()), now);
        }
        self.restore_overdue(now);
        if let Some(dns) = &mut self.dns {
            dns.expire(now);
        }
    }

    fn reap(&mut self, now: Instant) {
        let status = match waitpid(self.started.vmm.pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => code,
            Ok(WaitStatus::Signaled(_, signal, _)) => -(signal as i32),
            Err(_) => -1,
            Ok(_) => return,
        };
        self.drain_log();
        drain(&mut self.started.console, &mut self.console);
        self.run_state = "exited".into();
        self.exited = Some((status, now));
        let log = self.log.text();
        self.fail_restore(Refusal::new("failed", format!("the VMM ended while it was restored ({status}): {log}")));
        if self.worker.is_none() {
            self.fail_snapshot(Refusal::new("vmm_gone", "the VMM has ended"), now);
        }
        self.tell(Event::VmmExited { status, log });
    }

    /// Tells the claimant, if it knows such events.
    pub(super) fn tell(&mut self, event: Event) {
        let (claimant, since) = (self.claimant, event.since());
        let mut connections = self.connections.iter_mut();
        if let Some(connection) = connections.find(|c| Some(c.number) == claimant && c.version >= since) {
            match event {
                // A VMM that is an attacker makes these without end.
                Event::Stopped { .. } | Event::Resumed => connection.mention(&Line::Event { event }),
                _ => connection.say(&Line::Event { event }, Vec::new()),
            }
        }
    }

    /// Whether the socket of a connection is still known; for answers that come late.
    pub(super) fn connection(&mut self, number: u64) -> Option<&mut Connection> {
        self.connections.iter_mut().find(|c| c.number == number)
    }

    /// The keeper's own process id.
    pub(super) fn own_pid() -> u32 {
        std::process::id()
    }

    /// The pidfd, for signals.
    pub(super) fn pidfd(&self) -> i32 {
        self.started.vmm.pidfd.as_raw_fd()
    }
}

/// What a polled descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Listener,
    Exit,
    Qmp,
    Console,
    Log,
    Worker,
    /// 0 is the guest's.
    Dns(usize),
    Connection(u64),
}

/// Takes what is there, in a few pieces.
fn drain(from: &mut impl std::io::Read, into: &mut Ring) {
    let mut buffer = [0; 16 * 1024];
    for _ in 0..8 {
        match from.read(&mut buffer) {
            Ok(n) if n > 0 => into.push(&buffer[..n]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}
