//! Whether Atoll answers.
//!
//! How it works: one answer, the same at every time.
//!
//! Deliberately absent: anything that would have to be asked for: databases, hosts, images.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The answer of `/health`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`.
    #[schema(example = "ok")]
    pub status: String,
    /// Version of Atoll.
    #[schema(example = "0.1.0")]
    pub version: String,
}
