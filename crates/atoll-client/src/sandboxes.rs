//! Sandboxes and the commands in them.
//!
//! How it works: one method a route, each with a deadline that fits what the server may take for it.
//!
//! Deliberately absent: trying again (a create alone does, in `create.rs`).

use std::time::Duration;

use atoll_api::{Encoding, ExecRequest, ExecResponse, Health, NEXT_CURSOR, PREFIX, ProcessList, Sandbox};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;

use crate::client::QUICK;
use crate::{Client, ClientError};

const DESTROY_LIMIT: Duration = Duration::from_secs(120);
/// The server's default for a command's time.
const DEFAULT_EXEC: u64 = 30;
/// How much later than the server this side gives up.
const GRACE: Duration = Duration::from_secs(30);
const PAGE: &str = "200";

impl Client {
    /// Whether it answers, and which version it is.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn health(&self) -> Result<Health, ClientError> {
        self.json(self.at(Method::GET, self.url(&["health"]), QUICK)).await
    }

    /// One sandbox, whatever its status.
    ///
    /// # Errors
    /// Not found.
    pub async fn sandbox(&self, id: &str) -> Result<Sandbox, ClientError> {
        self.json(self.request(Method::GET, &["sandboxes", id], QUICK)).await
    }

    /// Every sandbox that is not over, the newest first.
    ///
    /// # Errors
    /// What the server refuses.
    pub async fn sandboxes(&self) -> Result<Vec<Sandbox>, ClientError> {
        let mut all: Vec<Sandbox> = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut url = self.url(&[PREFIX.trim_start_matches('/'), "sandboxes"]);
            url.query_pairs_mut().append_pair("limit", PAGE).extend_pairs(cursor.as_ref().map(|c| ("cursor", c)));
            let response = self.send(self.at(Method::GET, url, QUICK)).await?;
            let next = response.headers().get(NEXT_CURSOR).and_then(|value| value.to_str().ok()).map(str::to_owned);
            let page: Vec<Sandbox> = self.parse(response).await?;
            let more = !page.is_empty() && next != cursor;
            all.extend(page);
            match next.filter(|next| more && !next.is_empty()) {
                Some(next) => cursor = Some(next),
                None => return Ok(all),
            }
        }
    }

    /// Ends a sandbox; answers when nothing of it is left.
    ///
    /// # Errors
    /// Not found, a host that does not confirm.
    pub async fn destroy(&self, id: &str) -> Result<(), ClientError> {
        self.send(self.request(Method::DELETE, &["sandboxes", id], DESTROY_LIMIT)).await.map(drop)
    }

    /// Counts as a use of a sandbox.
    ///
    /// # Errors
    /// Not found, not running.
    pub async fn ping(&self, id: &str) -> Result<(), ClientError> {
        self.send(self.request(Method::POST, &["sandboxes", id, "ping"], QUICK)).await.map(drop)
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// Not running, killed at its deadline, a failing agent. A program that is not there is none: exit code 127.
    pub async fn exec(&self, id: &str, request: &ExecRequest) -> Result<ExecResponse, ClientError> {
        let seconds =
            request.timeout_sec.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0).unwrap_or(DEFAULT_EXEC);
        let limit = Duration::from_secs(seconds.min(u64::from(u32::MAX))) + GRACE;
        self.post(&["sandboxes", id, "exec"], request, limit).await
    }

    /// The processes that were started through Atoll and run.
    ///
    /// # Errors
    /// Not running, a failing agent.
    pub async fn processes(&self, id: &str) -> Result<ProcessList, ClientError> {
        self.json(self.request(Method::GET, &["sandboxes", id, "processes"], QUICK)).await
    }

    /// What a sandbox's machine said last; `source` is `console` for all of it or `agent`.
    ///
    /// # Errors
    /// Not running, a host that does not answer.
    pub async fn logs(&self, id: &str, source: &str) -> Result<Vec<u8>, ClientError> {
        let mut url = self.url(&[PREFIX.trim_start_matches('/'), "sandboxes", id, "logs"]);
        url.query_pairs_mut().append_pair("source", source);
        let response = self.send(self.at(Method::GET, url, QUICK)).await?;
        self.bytes(response).await
    }

    /// Sends a signal to a process, named by pid or tag, and its group.
    ///
    /// # Errors
    /// No such process, a signal that is none.
    pub async fn signal(&self, id: &str, process: &str, signal: &str) -> Result<(), ClientError> {
        let mut url = self.url(&[PREFIX.trim_start_matches('/'), "sandboxes", id, "processes", process]);
        url.query_pairs_mut().append_pair("signal", signal);
        self.send(self.at(Method::DELETE, url, QUICK)).await.map(drop)
    }
}

/// The bytes of both output streams.
///
/// # Errors
/// An answer whose encoding is not what it says.
pub fn output_of(ended: &ExecResponse) -> Result<(Vec<u8>, Vec<u8>), ClientError> {
    let decode = |text: &str| match ended.encoding {
        Encoding::Utf8 => Ok(text.as_bytes().to_vec()),
        Encoding::Base64 => {
            STANDARD.decode(text).map_err(|_| ClientError::Foreign { server: "the server".into(), status: 200 })
        }
    };
    Ok((decode(&ended.stdout)?, decode(&ended.stderr)?))
}
