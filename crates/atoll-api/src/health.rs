//! Whether Atoll answers.

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
