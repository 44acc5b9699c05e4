//! QMP, without waiting.
//!
//! How it works: [`Qmp::feed`] takes what the socket gave and answers what it meant; commands carry an id and a deadline, so that a
//! QEMU that hangs is told from one that is slow and never holds the keeper up. How long is slow is the command's own: one that
//! waits for the host's disk may take minutes.
//!
//! Deliberately absent: knowledge of single commands.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

/// Longest line that is taken; QEMU's longest (a description of a device) is far below.
const MAX_LINE: usize = 256 * 1024;
/// Longest description of a failure that is passed on.
const MAX_REASON: usize = 1024;
/// How long a command may take that waits for nothing but QEMU.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// What came of QEMU's words.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard {
    /// The greeting: commands are taken now.
    Ready,
    /// A command's answer, with what it was sent for.
    Answer {
        /// As given to [`Qmp::command`].
        token: u64,
        /// What it returned, or QEMU's description of the failure.
        result: Result<Value, String>,
    },
    /// Something that QEMU tells by itself.
    Event {
        /// Its name.
        name: String,
        /// Its data.
        data: Value,
    },
    /// What came was no QMP.
    Garbage(&'static str),
}

#[derive(Deserialize)]
struct Document {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    event: Option<String>,
    #[serde(default)]
    data: Value,
    id: Option<u64>,
    #[serde(rename = "return")]
    done: Option<Value>,
    error: Option<Failure>,
}

#[derive(Deserialize)]
struct Failure {
    desc: String,
}

/// The state of one control channel.
#[derive(Debug, Default)]
pub struct Qmp {
    input: Vec<u8>,
    /// Lines to be written to QEMU, the first of them perhaps in part, with the descriptor that goes with each.
    pub output: VecDeque<(Vec<u8>, Option<OwnedFd>)>,
    /// `(id = token, deadline)` of commands without an answer.
    waiting: Vec<(u64, Instant)>,
}

impl Qmp {
    /// Writes a command down; its answer will carry `token`, which must not be 0 or in use.
    pub fn command(&mut self, token: u64, name: &str, arguments: &Value, now: Instant) {
        self.command_with(token, name, arguments, None, DEADLINE, now);
    }

    /// The same with a descriptor that QEMU is to receive, and with a limit of its own.
    pub fn command_with(
        &mut self,
        token: u64,
        name: &str,
        arguments: &Value,
        fd: Option<OwnedFd>,
        limit: Duration,
        now: Instant,
    ) {
        let mut document = json!({"execute": name, "id": token});
        if !arguments.is_null() {
            document["arguments"] = arguments.clone();
        }
        self.output.push_back((format!("{document}\n").into_bytes(), fd));
        self.waiting.push((token, now + limit));
    }

    /// The next deadline.
    pub fn deadline(&self) -> Option<Instant> {
        self.waiting.iter().map(|(_, at)| *at).min()
    }

    /// Commands whose deadline is over; they are forgotten.
    pub fn overdue(&mut self, now: Instant) -> Vec<u64> {
        let (late, waiting) = self.waiting.drain(..).partition(|(_, at)| *at <= now);
        self.waiting = waiting;
        late.into_iter().map(|(token, _): (u64, Instant)| token).collect()
    }

    /// Takes bytes of QEMU and answers what they meant.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Heard> {
        let mut out = Vec::new();
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            self.input.extend_from_slice(piece);
            if self.input.len() > MAX_LINE {
                // Not cleared: an endless line must not leave its buffer behind.
                self.input = Vec::new();
                out.push(Heard::Garbage("a line of more than 256 KiB"));
            } else if piece.ends_with(b"\n") {
                let line = std::mem::take(&mut self.input);
                out.extend(self.line(&line));
            }
        }
        out
    }

    fn line(&mut self, line: &[u8]) -> Option<Heard> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return None;
        }
        let Ok(document) = serde_json::from_slice::<Document>(line) else {
            return Some(Heard::Garbage("a line that is no QMP document"));
        };
        if document.greeting.is_some() {
            return Some(Heard::Ready);
        }
        if let Some(name) = document.event {
            return Some(Heard::Event { name, data: document.data });
        }
        let token = document.id?;
        let known = self.waiting.iter().position(|(id, _)| *id == token)?;
        self.waiting.swap_remove(known);
        let result = match (document.done, document.error) {
            (_, Some(failure)) => Err(failure.desc.chars().take(MAX_REASON).collect()),
            (value, None) => Ok(value.unwrap_or(Value::Null)),
        };
        Some(Heard::Answer { token, result })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_in_any_pieces() {
        let now = Instant::now();
        let said = b"{\"QMP\": {\"version\": {}}}\r\n{\"return\": {\"x\": 1}, \"id\": 7}\r\n{\"event\": \"STOP\", \"timestamp\": {}}\n{\"id\": 8, \"error\": {\"class\": \"G\", \"desc\": \"no\"}}\nnonsense\n";
        for size in [1, 2, 7, said.len()] {
            let mut qmp = Qmp::default();
            qmp.command(7, "query-status", &Value::Null, now);
            qmp.command(8, "cont", &json!({"a": 1}), now);
            let heard: Vec<Heard> = said.chunks(size).flat_map(|piece| qmp.feed(piece)).collect();
            assert_eq!(heard.len(), 5, "{heard:?}");
            assert_eq!(heard[0], Heard::Ready);
            assert_eq!(heard[1], Heard::Answer { token: 7, result: Ok(json!({"x": 1})) });
            assert!(matches!(&heard[2], Heard::Event { name, .. } if name == "STOP"));
            assert_eq!(heard[3], Heard::Answer { token: 8, result: Err("no".into()) });
            assert!(matches!(heard[4], Heard::Garbage(_)));
            assert_eq!(qmp.deadline(), None);
        }
    }

    #[test]
    fn an_endless_line_costs_bounded_memory_and_a_late_answer_is_not_waited_for() {
        let mut qmp = Qmp::default();
        let now = Instant::now();
        qmp.command(1, "stop", &Value::Null, now);
        let heard: Vec<Heard> = (0..100).flat_map(|_| qmp.feed(&[b'x'; 10_000])).collect();
        assert!(heard.iter().all(|h| matches!(h, Heard::Garbage(_))) && !heard.is_empty());
        assert!(qmp.input.len() <= MAX_LINE);
        assert_eq!(qmp.overdue(now), Vec::<u64>::new());
        assert_eq!(qmp.overdue(now + DEADLINE), [1]);
    }

    #[test]
    fn a_command_that_waits_for_the_disk_is_waited_for_as_long_as_that_takes() {
        let (mut qmp, now, minutes) = (Qmp::default(), Instant::now(), Duration::from_mins(10));
        qmp.command_with(1, "stop", &Value::Null, None, minutes, now);
        qmp.command(2, "query-status", &Value::Null, now);
        assert_eq!(qmp.overdue(now + Duration::from_secs(12)), [2]);
        let heard = qmp.feed(b"{\"return\": {}, \"id\": 1}\n");
        assert!(matches!(heard[..], [Heard::Answer { token: 1, result: Ok(_) }]), "{heard:?}");
    }
}
