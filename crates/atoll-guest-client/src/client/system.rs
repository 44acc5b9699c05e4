//! Calls about the machine: health, identity, use, quiescence, size of its disk.
//!
//! How it works: plain HTTP with JSON on routes of the agent.
//!
//! Deliberately absent: deciding when: the host agent's and the control plane's.

use std::collections::BTreeMap;

use super::GuestClient;
use crate::{DiskSize, GuestError, Health, InitRequest, Metrics, PrepareRequest, Prepared, connect};

impl GuestClient {
    /// Asks whether the agent is there. Needs no token.
    pub async fn health(&self) -> Result<Health, GuestError> {
        self.get_json("/health").await
    }

    /// Hands the agent its identity, clock, entropy and token. The first call needs no token; a
    /// later one (after a restore) needs the current one, and lets frozen user code go on.
    pub async fn init(&self, init: &InitRequest) -> Result<(), GuestError> {
        self.post_json("/init", init).await.map(drop)
    }

    /// What the guest says it uses.
    pub async fn metrics(&self) -> Result<Metrics, GuestError> {
        self.get_json("/metrics").await
    }

    /// The environment that every process gets.
    pub async fn envs(&self) -> Result<BTreeMap<String, String>, GuestError> {
        self.get_json("/envs").await
    }

    /// Makes the guest ready for a snapshot: user code stands still and, if asked, what is to
    /// be written is on the disk. An error leaves user code running.
    pub async fn prepare_snapshot(&self, prepare: &PrepareRequest) -> Result<Prepared, GuestError> {
        let mut exchange = self.post_json("/snapshot/prepare", prepare).await?;
        connect::expect_ok(&mut exchange, &self.limits).await?;
        self.json_of(exchange).await
    }

    /// Lets user code go on after [`Self::prepare_snapshot`], in the same guest. No error when
    /// it is not frozen.
    pub async fn unfreeze(&self) -> Result<(), GuestError> {
        self.post_json("/unfreeze", &serde_json::json!({})).await.map(drop)
    }

    /// Writes everything that the guest holds back to its disk.
    pub async fn sync(&self) -> Result<(), GuestError> {
        self.post_json("/sync", &serde_json::json!({})).await.map(drop)
    }

    /// Grows the guest's file system to the size that its disk has now.
    pub async fn grow_disk(&self) -> Result<DiskSize, GuestError> {
        let exchange = self.post_json("/disk/grow", &serde_json::json!({})).await?;
        self.json_of(exchange).await
    }
}
