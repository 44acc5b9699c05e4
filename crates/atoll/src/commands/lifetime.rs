//! `atoll update`
//!
//! How it works: only the flags that were given are sent, so that what is absent stays.
//!
//! Deliberately absent: limits and defaults; they are the server's.

use anyhow::Result;
use atoll_api::UpdateSandboxRequest;
use atoll_client::Client;

use crate::args::{Global, LifetimeArgs, Output, UpdateArgs};
use crate::failure::Refusal;
use crate::{connect, output};

/// Changes how long a sandbox may live.
pub(crate) async fn update(client: &Client, global: &Global, args: UpdateArgs) -> Result<()> {
    let LifetimeArgs { timeout, end_at, on_expiry, auto_resume, max_lifetime } = args.lifetime;
    let request = UpdateSandboxRequest {
        timeout_sec: timeout,
        end_at: if args.no_end_at { Some(None) } else { end_at.map(Some) },
        on_expiry,
        auto_resume,
        max_lifetime_sec: max_lifetime,
    };
    if request == UpdateSandboxRequest::default() {
        return Err(Refusal::Usage("say what is to change: see `atoll update --help`".into()).into());
    }
    let id = connect::resolve(client, &args.id).await?;
    let sandbox = client.update(&id, &request).await?;
    match global.output {
        Output::Json => output::json(&sandbox),
        Output::Table | Output::Name => output::print(&format!("{}\n", sandbox.id)),
    }
}
