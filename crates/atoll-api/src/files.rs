//! Files of a sandbox.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Asks for the contents of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReadFileRequest {
    /// Path in the sandbox; a relative one begins at the user's home.
    #[schema(example = "/root/result.json")]
    pub path: String,
}

/// The parts of a `multipart/form-data` body that writes a file. `path` comes before `file`.
#[derive(Debug, Clone, ToSchema)]
pub struct FileWrite {
    /// Path in the sandbox; missing directories are made.
    #[schema(example = "/root/input.csv")]
    pub path: String,
    /// Its contents.
    #[schema(value_type = String, format = Binary)]
    pub file: Vec<u8>,
}
