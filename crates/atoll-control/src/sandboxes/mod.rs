//! Sandboxes: create, look, use, pause, resume, destroy.
//!
//! How it works: one file an act, all methods of [`crate::Control`]; this one only puts them together.
//!
//! Deliberately absent: HTTP, SQL, and anything that is a host's.

mod background;
mod create;
mod debug;
pub(crate) mod destroy;
mod exec;
mod files;
mod frozen;
mod history;
mod lifetime;
mod lost;
mod metrics;
mod pause;
mod processes;
mod query;
mod resume;
mod tree;

pub use background::Started;
pub use create::CreateInput;
pub use debug::{AgentConnection, AgentUses};
pub(crate) use exec::gone;
pub use exec::{ExecInput, ExecResult};
pub use files::FileDownload;
pub use lifetime::on_expiry;
pub use metrics::SandboxMetrics;
pub use pause::PausedSandbox;
pub(crate) use pause::{FoundPaused, is_refusal};
pub use processes::{FollowFrom, ProcessHandle, Session, StartInput};
pub use query::{SandboxPage, decode_cursor, encode_cursor};
pub(crate) use resume::lost;
