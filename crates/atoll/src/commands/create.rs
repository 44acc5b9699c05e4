//! `atoll create`
//!
//! How it works: the flags become a request; the id is printed when the sandbox runs, the phases of its start are told
//! beside it.
//!
//! Deliberately absent: a program to run (`atoll run`).

use anyhow::Result;
use atoll_api::{CreateSandboxRequest, Sandbox};
use atoll_client::Client;

use super::request;
use crate::args::{CreateArgs, Global, LifetimeArgs, Output};
use crate::output;
use crate::progress::waiting;

/// Creates a sandbox and prints its id.
pub(crate) async fn create(client: &Client, global: &Global, args: &CreateArgs) -> Result<()> {
    let LifetimeArgs { timeout, end_at, on_expiry, auto_resume, max_lifetime } = args.lifetime.clone();
    let request = CreateSandboxRequest {
        timeout_sec: timeout,
        end_at,
        on_expiry,
        auto_resume,
        max_lifetime_sec: max_lifetime,
        boot: args.boot.clone(),
        debug_port: args.debug_port,
        ..request(&args.shape)?
    };
    let sandbox = waiting("the sandbox starts", global.quiet, client.create(&request)).await?;
    if !global.quiet {
        tell_phases(&sandbox);
    }
    match global.output {
        Output::Json => output::json(&sandbox),
        Output::Table | Output::Name => output::print(&format!("{}\n", sandbox.id)),
    }
}

/// How long each phase of the start took, where the server tells it.
pub(crate) fn tell_phases(sandbox: &Sandbox) {
    let Some(host) = &sandbox.host else { return };
    if host.phases.is_empty() {
        return;
    }
    let phases: Vec<String> =
        host.phases.iter().map(|phase| format!("{} {}", phase.name, duration(phase.ms))).collect();
    output::hint(&format!("{}: {}", sandbox.id, phases.join(" · ")));
}

/// Milliseconds for people.
pub(crate) fn duration(ms: f64) -> String {
    if ms < 1000.0 { format!("{ms:.0} ms") } else { format!("{:.1} s", ms / 1000.0) }
}
