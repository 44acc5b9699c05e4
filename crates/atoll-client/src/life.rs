//! A sandbox's life: pause, resume, limits, templates, what it used and what happened to it.
//!
//! How it works: one method a route; what may have to boot or write a memory has a longer deadline.
//!
//! Deliberately absent: trying again: each of these may be repeated as it is.

use std::time::Duration;

use atoll_api::{
    CreateSnapshotRequest, ModeRequest, PREFIX, Sandbox, SandboxEvent, SandboxMetrics, Snapshot, UpdateSandboxRequest,
};
use reqwest::{Method, Url};

use crate::client::QUICK;
use crate::{Client, ClientError};

/// A pause writes what changed of the memory; a resume may boot.
const LIFE_LIMIT: Duration = Duration::from_secs(600);

impl Client {
    fn below(&self, segments: &[&str]) -> Url {
        let all: Vec<&str> = std::iter::once(PREFIX.trim_start_matches('/')).chain(segments.iter().copied()).collect();
        self.url(&all)
    }

    /// Pauses a sandbox, with its memory or its disk alone; one that is paused already stays as it is.
    ///
    /// # Errors
    /// Not found, neither running nor paused, a host that cannot do it.
    pub async fn pause(&self, id: &str, request: &ModeRequest) -> Result<Sandbox, ClientError> {
        self.post(&["sandboxes", id, "pause"], request, LIFE_LIMIT).await
    }

    /// Resumes a sandbox, from its memory or its disk alone; one that runs already stays as it is.
    ///
    /// # Errors
    /// Not found, neither running nor paused, a memory that cannot be used any more.
    pub async fn resume(&self, id: &str, request: &ModeRequest) -> Result<Sandbox, ClientError> {
        self.post(&["sandboxes", id, "resume"], request, LIFE_LIMIT).await
    }

    /// Changes how long a sandbox may live.
    ///
    /// # Errors
    /// Not found, a limit out of bounds.
    pub async fn update(&self, id: &str, request: &UpdateSandboxRequest) -> Result<Sandbox, ClientError> {
        self.json(self.request(Method::PATCH, &["sandboxes", id], QUICK).json(request)).await
    }

    /// Makes a template of a sandbox; with `overwrite`, in the place of one of that name.
    ///
    /// # Errors
    /// Not found, a name that is taken, an agent that does not answer.
    pub async fn create_snapshot(
        &self,
        request: &CreateSnapshotRequest,
        overwrite: bool,
    ) -> Result<Snapshot, ClientError> {
        let mut url = self.below(&["snapshots"]);
        if overwrite {
            url.query_pairs_mut().append_pair("overwrite", "true");
        }
        self.json(self.at(Method::POST, url, LIFE_LIMIT).json(request)).await
    }

    /// The team's templates, the newest first; of one kind (`base` or `snapshot`) if it is named.
    ///
    /// # Errors
    /// A kind that is none.
    pub async fn snapshots(&self, kind: Option<&str>) -> Result<Vec<Snapshot>, ClientError> {
        let mut url = self.below(&["snapshots"]);
        if let Some(kind) = kind {
            url.query_pairs_mut().append_pair("type", kind);
        }
        self.json(self.at(Method::GET, url, QUICK)).await
    }

    /// One of them.
    ///
    /// # Errors
    /// Not found.
    pub async fn snapshot(&self, name: &str) -> Result<Snapshot, ClientError> {
        self.json(self.request(Method::GET, &["snapshots", name], QUICK)).await
    }

    /// Deletes a template.
    ///
    /// # Errors
    /// Not found, files that cannot be removed.
    pub async fn delete_snapshot(&self, name: &str) -> Result<(), ClientError> {
        self.send(self.request(Method::DELETE, &["snapshots", name], LIFE_LIMIT)).await.map(drop)
    }

    /// What a sandbox used over `10m`, `2h` or `24h`.
    ///
    /// # Errors
    /// Not found, also for one that neither runs nor is paused.
    pub async fn metrics(&self, id: &str, range: &str) -> Result<SandboxMetrics, ClientError> {
        let mut url = self.below(&["sandboxes", id, "metrics"]);
        url.query_pairs_mut().append_pair("range", range);
        self.json(self.at(Method::GET, url, QUICK)).await
    }

    /// What happened to a sandbox, the newest first.
    ///
    /// # Errors
    /// Not found.
    pub async fn events(&self, id: &str, limit: u32) -> Result<Vec<SandboxEvent>, ClientError> {
        let mut url = self.below(&["sandboxes", id, "events"]);
        url.query_pairs_mut().append_pair("limit", &limit.to_string());
        self.json(self.at(Method::GET, url, QUICK)).await
    }
}
