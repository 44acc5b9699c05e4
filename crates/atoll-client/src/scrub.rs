//! Having everything read again that is kept.
//!
//! How it works: one call whose answer comes when all is read.
//!
//! Deliberately absent: what the server decides.

use std::time::Duration;

use atoll_api::ScrubReport;
use reqwest::Method;

use crate::{Client, ClientError};

/// As long as the server gives it.
const SCRUB_LIMIT: Duration = Duration::from_secs(12 * 3600);

impl Client {
    /// Has everything read again that the host keeps and compared with its signed manifests.
    ///
    /// # Errors
    /// Not allowed: this is for platform admins, over the data directory's socket.
    pub async fn scrub(&self) -> Result<ScrubReport, ClientError> {
        self.json(self.request(Method::POST, &["scrub"], SCRUB_LIMIT)).await
    }
}
