//! The host's side of the guest agent's wire (envd-shaped: Connect RPC and plain
//! HTTP on port 49983), over a byte stream that somebody else opens.
//!
//! How it works: callers give a [`Dial`] and get typed events and errors. An answer of a guest is hostile: every phase
//! has a deadline, every header block, body and frame a cap, and encoded answers are refused (this side never asks for
//! compression). A call that streams uses a connection of its own; dropping a [`ProcessStream`] or a [`FileReader`]
//! closes it, and the agent does not end a process because its reader went away.
//!
//! Deliberately absent: retries, and any knowledge of what a sandbox is.

mod client;
mod connect;
mod dial;
mod eager;
mod error;
mod files;
mod filesystem;
pub mod fuzz;
mod http1;
mod input;
mod limits;
mod process;
mod stream;
mod system;
mod token;
mod watch;

pub use client::GuestClient;
pub use dial::{Dial, DialFuture, GuestIo, GuestStream, dial_fn};
pub use eager::eagerly;
pub use error::{Code, GuestError, Phase, Reason};
pub use files::{FileBody, FileReader, ReadRange, WrittenFile};
pub use filesystem::{Entry, EntryKind};
pub use input::InputSink;
pub use limits::Limits;
pub use process::{ProcessEvent, ProcessInfo, PtySize, Selector, StartRequest};
pub use stream::ProcessStream;
pub use system::{DiskSize, Health, InitRequest, Metrics, PrepareRequest, Prepared};
pub use token::AccessToken;
pub use watch::{Change, ChangeKind, WatchEvent, WatchStream, Watcher};

/// The newest level of the host's own calls that this client knows ([`Health::protocol`]).
pub const AGENT_PROTOCOL: u32 = 2;

/// Since this level ([`Health::protocol`]) the agent starts an operation once, however often it is asked
/// ([`StartRequest::operation`]).
pub const AGENT_KNOWS_OPERATIONS: u32 = 2;

/// The port on which the agent listens inside the guest.
pub const AGENT_PORT: u16 = 49983;
