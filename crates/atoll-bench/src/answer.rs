//! How long sandboxes take to answer, from now on.
//!
//! How it works: `true` is run in every one of them at once, and again where it did not work, until each has answered. What is printed is
//! the time to each sandbox's answer, in milliseconds, in the order in which they were named.
//!
//! Deliberately absent: the start of Atoll (the reporter's).

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use atoll_api::ExecRequest;
use atoll_client::{Client, ClientError, Endpoint};
use futures_util::future::try_join_all;

const RETRY: Duration = Duration::from_millis(10);
const LIMIT: Duration = Duration::from_secs(300);

/// Asks all of them.
pub(crate) async fn measure(data: PathBuf, ids: &str) -> Result<Vec<f64>> {
    let started = Instant::now();
    let endpoint = Endpoint::Data(data);
    // Before Atoll has its socket there is nobody to be a client of.
    let client = loop {
        match Client::new(&endpoint) {
            Err(ClientError::NotRunning { .. }) if started.elapsed() < LIMIT => tokio::time::sleep(RETRY).await,
            other => break other?,
        }
    };
    try_join_all(ids.split(',').map(|id| answered(&client, id, started))).await
}

async fn answered(client: &Client, id: &str, started: Instant) -> Result<f64> {
    let request = ExecRequest { cmd: "true".into(), ..ExecRequest::default() };
    loop {
        match client.exec(id, &request).await {
            Ok(ended) => {
                ensure!(ended.exit_code == 0, "`true` ended with {} in {id}", ended.exit_code);
                return Ok(started.elapsed().as_secs_f64() * 1000.0);
            }
            Err(error) if started.elapsed() > LIMIT => return Err(error).with_context(|| format!("{id} is silent")),
            // An end, told for good, is not waited for.
            Err(error) if error.code().is_some_and(|code| code == atoll_api::ErrorCode::NotFound) => {
                bail!("{id} is gone: {error}")
            }
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}
