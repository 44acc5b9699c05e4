//! What goes over the WebSockets: JSON text frames, each with its `type`.
//!
//! How it works: `data` is text; where the bytes are not UTF-8 it is base64 and `encoding` says so. `offset` counts all output of a process, whichever
//! descriptor, so that a reader comes back where it stopped (`?tag=&offset=`). A `gap` is output that is not kept any more. A terminal's
//! JSON frames are base64 always; its binary frames are the bytes themselves, counted from the offset in `started`.
//!
//! Deliberately absent: a way to lose a byte without being told.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Encoding;

/// What a client sends over `/exec/stream`. The first frame is `start`, unless the URL names a tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ExecClientFrame {
    /// Starts a program.
    Start(StreamStart),
    /// Kills it, with its process group.
    Stop,
    /// Feeds its standard input, if it was started with `stdin`. Behind 16 MiB that the program has not read the connection waits for it. With
    /// `input_acks` the server says how much was taken and never waits; more than `input_window` on its way is refused by an `error` that is not
    /// fatal, with all that follows it.
    Stdin {
        /// The bytes.
        data: String,
        /// How they are written.
        #[serde(default)]
        encoding: Encoding,
    },
    /// Closes its standard input.
    CloseStdin,
}

/// A program to start and follow.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct StreamStart {
    /// The program.
    pub cmd: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Working directory; absent means the user's home.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Variables besides the sandbox's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub envs: Option<BTreeMap<String, String>>,
    /// Operating-system user; absent means root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// A name to find it by; absent means that one is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Seconds that it may take; absent or 0 mean without end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_sec: Option<i64>,
    /// Keeps standard input open for `stdin` frames.
    pub stdin: bool,
    /// Asks for `input_taken`, and for `input_window` in `start`, so that no input is sent that would be refused.
    #[serde(skip_serializing_if = "is_false")]
    pub input_acks: bool,
    /// The program waits for this reader while it takes what comes, as at a pipe. Without it the program never waits, and
    /// output that the reader is too slow for becomes a `gap`.
    #[serde(skip_serializing_if = "is_false")]
    pub backpressure: bool,
}

/// What a client receives over `/exec/stream` and `/processes/{process}/stream`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StreamFrame {
    /// It runs. Always the first, unless there is an error.
    Start {
        /// Its pid in the guest.
        pid: u32,
        /// Its tag, where it is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tag: Option<String>,
        /// Where in its output this stream begins.
        #[serde(default)]
        offset: u64,
        /// How many bytes of input may be sent and not taken yet, if `input_acks` asked for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input_window: Option<u64>,
    },
    /// Input went on to the program, if `input_acks` asked for it.
    InputTaken {
        /// How much of this stream's input in all.
        bytes: u64,
    },
    /// It wrote to standard output, or to its terminal.
    Stdout(Output),
    /// It wrote to standard error.
    Stderr(Output),
    /// Output that is lost to this reader, who came too late or was too slow.
    Gap {
        /// How much.
        bytes: u64,
        /// Where it begins.
        offset: u64,
    },
    /// It ended. Always the last.
    Exit {
        /// What it exited with, or 128 + the signal that ended it.
        exit_code: i32,
        /// The signal that ended it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<i32>,
    },
    /// The stream cannot go on, or (not `fatal`) does not do what it was asked.
    Error(StreamError),
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Output {
    /// The bytes.
    pub data: String,
    /// How they are written; absent means as text.
    #[serde(default, skip_serializing_if = "is_text")]
    pub encoding: Encoding,
    /// How many bytes of output came before.
    #[serde(default)]
    pub offset: u64,
}

// serde hands a reference to it.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(value: &bool) -> bool {
    !value
}

// The same.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_text(encoding: &Encoding) -> bool {
    *encoding == Encoding::Utf8
}

/// Why a stream cannot go on, or what it does not do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StreamError {
    /// For people.
    pub data: String,
    /// For programs: a code of the error body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<crate::ErrorCode>,
    /// Whether the session is over. It is not when input was refused because too much waits already.
    #[serde(default)]
    pub fatal: bool,
}

/// What a client sends over `/pty`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum PtyClientFrame {
    /// Starts a program on a new terminal.
    Start(PtyStart),
    /// Comes back to a terminal.
    Connect {
        /// The tag in `started`.
        tag: String,
        /// From this byte of its output on; absent means all that is kept.
        #[serde(default)]
        offset: u64,
        /// As in `start`.
        #[serde(default, skip_serializing_if = "is_false")]
        backpressure: bool,
    },
    /// Keystrokes.
    Input {
        /// Base64.
        data: String,
    },
    /// The terminal has another size.
    Resize {
        /// Width in characters.
        cols: u16,
        /// Height in characters.
        rows: u16,
    },
    /// Kills the program.
    Kill,
    /// Answers a `ping`.
    Pong,
}

/// A program on a new terminal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PtyStart {
    /// The program.
    pub cmd: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Width in characters.
    pub cols: u16,
    /// Height in characters.
    pub rows: u16,
    /// Variables besides the sandbox's own; `TERM` is `xterm-256color` where it is not given.
    pub envs: Option<BTreeMap<String, String>>,
    /// Working directory; empty means the user's home.
    pub cwd: Option<String>,
    /// Operating-system user; empty means root.
    pub user: Option<String>,
    /// A name to come back by; absent means that one is made.
    pub tag: Option<String>,
    /// The program waits for this reader while it takes what comes. Without it the program never waits, and output that
    /// the reader is too slow for becomes a `gap`.
    #[serde(skip_serializing_if = "is_false")]
    pub backpressure: bool,
}

impl Default for PtyStart {
    fn default() -> Self {
        Self {
            cmd: "/bin/bash".into(),
            args: Vec::new(),
            cols: 80,
            rows: 24,
            envs: None,
            cwd: None,
            user: None,
            tag: None,
            backpressure: false,
        }
    }
}

/// What a client receives over `/pty`, besides binary frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum PtyFrame {
    /// It runs.
    Started {
        /// Comes back to it.
        tag: String,
        /// Its pid in the guest.
        pid: u32,
        /// Where in its output this stream begins; binary frames are counted from here.
        #[serde(default)]
        offset: u64,
    },
    /// It wrote to its terminal.
    Output {
        /// Base64.
        data: String,
        /// How many bytes of output came before.
        #[serde(default)]
        offset: u64,
    },
    /// Output that is lost to this reader.
    Gap {
        /// How much.
        bytes: u64,
        /// Where it begins.
        offset: u64,
    },
    /// It ended.
    Exit {
        /// What it exited with, or 128 + the signal that ended it.
        exit_code: i32,
    },
    /// The session cannot go on, or (not `fatal`) input was refused because too much waits already.
    Error(StreamError),
    /// Nothing happened, and the sandbox is still there.
    Ping,
}
