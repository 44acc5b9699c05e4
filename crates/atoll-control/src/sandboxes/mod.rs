//! Sandboxes: create, look, use, destroy.

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
