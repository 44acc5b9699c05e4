//! What goes over the REST API: requests, answers, the error body.
//!
//! How it works: plain serde types with their OpenAPI schemas, used by the server, the client and the tests alike. Requests refuse fields
//! that they do not know, so that a typing error does not pass silently; answers are read with what a newer server adds left out.
//! Sizes are in MiB where the name ends in `_mb`; times are RFC 3339 in UTC.
//!
//! Deliberately absent: rules (atoll-domain has them) and anything of HTTP.

mod exec;
mod files;
mod frames;
mod health;
mod life;
mod problem;
mod process;
mod sandbox;
mod scrub;
mod snapshot;

pub use exec::{Encoding, ExecRequest, ExecResponse};
pub use files::{
    EntryList, EntryResponse, FileEntry, FileKind, FileWrite, ListFilesRequest, MoveRequest, PathRequest,
    ReadFileRequest,
};
pub use frames::{ExecClientFrame, Output, PtyClientFrame, PtyFrame, PtyStart, StreamError, StreamFrame, StreamStart};
pub use health::Health;
pub use life::{MetricPoint, SandboxEvent, SandboxMetrics};
pub use problem::{ErrorBody, ErrorCode, FieldError, Problem};
pub use process::{BackgroundResponse, Process, ProcessList};
pub use sandbox::{
    CreateSandboxRequest, HostFacts, ModeRequest, Network, Paused, Phase, Sandbox, SandboxStatus, UpdateSandboxRequest,
};
pub use scrub::{Damage, ScrubReport};
pub use snapshot::{CreateSnapshotRequest, Snapshot};

/// A JSON document's path of the API's version.
pub const PREFIX: &str = "/v1";
/// Header that names a request, in and out.
pub const REQUEST_ID: &str = "x-request-id";
/// Header that carries an API key.
pub const API_KEY: &str = "x-api-key";
/// Header of a list's answer: where the next page begins. Absent on the last one.
pub const NEXT_CURSOR: &str = "x-next-cursor";
