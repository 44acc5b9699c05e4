//! Sandboxes: create, look, use, destroy.
//!
//! How it works: one file an act, all methods of [`crate::Control`]; this one only puts them together.
//!
//! Deliberately absent: HTTP, SQL, and anything that is a host's.

mod background;
mod create;
mod destroy;
mod exec;
mod files;
mod history;
mod metrics;
mod processes;
mod query;
mod tree;

pub use background::Started;
pub use create::CreateInput;
pub use exec::{ExecInput, ExecResult};
pub use files::FileDownload;
pub use metrics::SandboxMetrics;
pub use processes::{FollowFrom, ProcessHandle, Session, StartInput};
pub use query::{SandboxPage, decode_cursor, encode_cursor};
