//! What can be said about processes: plain types, and the way to and from the wire.
//!
//! How it works: requests become generated messages and events come out of them here, so that nobody else sees the
//! wire's types.
//!
//! Deliberately absent: order of events; `stream.rs` holds the agent to it.

use std::{collections::BTreeMap, time::Duration};

use atoll_proto::process as wire;
use bytes::Bytes;
use wire::__buffa::oneof::{process_event, process_selector};

use crate::{GuestError, connect};

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PtySize {
    /// Width.
    pub cols: u16,
    /// Height.
    pub rows: u16,
}

/// A program to start.
#[derive(Debug, Clone, Default)]
pub struct StartRequest {
    /// The program; looked up in the guest's PATH, never given to a shell.
    pub cmd: String,
    /// Its arguments, without the program's own name.
    pub args: Vec<String>,
    /// Environment on top of the sandbox's own.
    pub envs: BTreeMap<String, String>,
    /// Working directory. `None` is the default one.
    pub cwd: Option<String>,
    /// Operating-system user. `None` is the agent's default.
    pub user: Option<String>,
    /// A name to find the process by.
    pub tag: Option<String>,
    /// Which operation this is, at most 256 bytes: while the agent remembers it, the same one again starts nothing and follows the
    /// process that the first has started. An agent below [`crate::AGENT_KNOWS_OPERATIONS`] starts another.
    pub operation: Option<String>,
    /// Keeps standard input open for [`crate::GuestClient::send_input`].
    pub stdin: bool,
    /// Runs the program on a terminal of this size.
    pub pty: Option<PtySize>,
    /// The program waits for this reader while it takes what comes, as at a pipe. Without it output that the reader is
    /// too slow for becomes a gap.
    pub backpressure: bool,
    /// After this the agent kills the whole process group and the stream ends
    /// with `Rejected { code: DeadlineExceeded, .. }`.
    pub timeout: Option<Duration>,
}

/// Which process is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// By its pid in the guest.
    Pid(u32),
    /// By the tag that it was started with.
    Tag(String),
}

/// A process that runs in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Its pid in the guest.
    pub pid: u32,
    /// Its tag, if it has one.
    pub tag: Option<String>,
    /// The program.
    pub cmd: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// The environment that its starter gave.
    pub envs: BTreeMap<String, String>,
    /// Where it was started.
    pub cwd: Option<String>,
}

/// One thing that happened to a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessEvent {
    /// It runs. Always the first event.
    Started {
        /// Its pid in the guest.
        pid: u32,
        /// Where in its output this stream begins, in bytes.
        offset: u64,
        /// An earlier request of the same operation has started it.
        known: bool,
    },
    /// It wrote to standard output.
    Stdout(Bytes),
    /// It wrote to standard error.
    Stderr(Bytes),
    /// It wrote to its terminal.
    Pty(Bytes),
    /// Output that this reader missed because it was too slow or came too late.
    Gap {
        /// How much.
        bytes: u64,
    },
    /// It ended. Always the last event.
    Ended {
        /// What it exited with, or 128 + the signal that ended it.
        exit_code: i32,
        /// The signal that ended it.
        signal: Option<i32>,
        /// What went wrong, in the agent's words.
        error: Option<String>,
    },
    /// Nothing happened, and the agent is still there.
    Keepalive,
}

impl Selector {
    pub(crate) fn to_wire(&self) -> wire::ProcessSelector {
        let selector = match self {
            Self::Pid(pid) => process_selector::Selector::Pid(*pid),
            Self::Tag(tag) => process_selector::Selector::Tag(tag.clone()),
        };
        wire::ProcessSelector { selector: Some(selector), ..Default::default() }
    }
}

impl PtySize {
    pub(crate) fn to_wire(self) -> wire::PTY {
        let size = wire::pty::Size { cols: u32::from(self.cols), rows: u32::from(self.rows), ..Default::default() };
        wire::PTY { size: size.into(), ..Default::default() }
    }
}

impl StartRequest {
    pub(crate) fn to_wire(&self) -> wire::StartRequest {
        let config = wire::ProcessConfig {
            cmd: self.cmd.clone(),
            args: self.args.clone(),
            envs: self.envs.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
            cwd: self.cwd.clone(),
            ..Default::default()
        };
        wire::StartRequest {
            process: config.into(),
            pty: self.pty.map(PtySize::to_wire).into(),
            tag: self.tag.clone(),
            stdin: Some(self.stdin),
            want_offsets: Some(true),
            backpressure: self.backpressure.then_some(true),
            operation: self.operation.clone(),
            ..Default::default()
        }
    }
}

impl ProcessInfo {
    pub(crate) fn from_wire(info: wire::ProcessInfo) -> Self {
        let config = info.config.into_option().unwrap_or_default();
        Self {
            pid: info.pid,
            tag: info.tag,
            cmd: config.cmd,
            args: config.args,
            envs: config.envs.into_iter().collect(),
            cwd: config.cwd,
        }
    }
}

impl ProcessEvent {
    /// Reads an event. One that this version does not know is a sign of life.
    pub(crate) fn from_wire(event: wire::ProcessEvent) -> Result<Self, GuestError> {
        let Some(event) = event.event else {
            return Ok(Self::Keepalive);
        };
        Ok(match event {
            process_event::Event::Start(start) => {
                Self::Started { pid: start.pid, offset: start.offset.unwrap_or(0), known: start.known.unwrap_or(false) }
            }
            process_event::Event::Data(data) => Self::from_output(*data).unwrap_or(Self::Keepalive),
            process_event::Event::Gap(gap) => Self::Gap { bytes: gap.bytes },
            process_event::Event::Keepalive(_) => Self::Keepalive,
            process_event::Event::End(end) => Self::Ended {
                exit_code: end.exit_code,
                signal: end
                    .signal
                    .map(i32::try_from)
                    .transpose()
                    .map_err(|_| GuestError::protocol("a signal out of range"))?,
                error: end.error.map(connect::shorten),
            },
        })
    }

    /// Where in the output a stream stands that stood at `offset` before this event.
    pub(crate) fn offset_after(&self, offset: u64) -> u64 {
        match self {
            Self::Started { offset, .. } => *offset,
            Self::Stdout(bytes) | Self::Stderr(bytes) | Self::Pty(bytes) => offset.saturating_add(bytes.len() as u64),
            Self::Gap { bytes } => offset.saturating_add(*bytes),
            Self::Ended { .. } | Self::Keepalive => offset,
        }
    }

    fn from_output(data: wire::process_event::DataEvent) -> Option<Self> {
        use process_event::data_event::Output;
        Some(match data.output? {
            Output::Stdout(bytes) => Self::Stdout(bytes.into()),
            Output::Stderr(bytes) => Self::Stderr(bytes.into()),
            Output::Pty(bytes) => Self::Pty(bytes.into()),
        })
    }
}
