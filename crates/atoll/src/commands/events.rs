//! `atoll events`
//!
//! How it works: the newest come from the server; they are printed the oldest first, as a table, in a pipe as tabs, or
//! JSON.
//!
//! Deliberately absent: following.

use anyhow::Result;
use atoll_api::SandboxEvent;
use atoll_client::Client;

use crate::args::{EventsArgs, Global, Output};
use crate::{connect, output};

const HEADERS: &[&str] = &["TIME", "EVENT", "LIFE", "REASON"];

/// Shows what happened to a sandbox, the oldest first.
pub(crate) async fn events(client: &Client, global: &Global, args: &EventsArgs) -> Result<()> {
    let id = connect::resolve(client, &args.id).await?;
    let events = client.events(&id, args.limit).await?;
    let terminal = output::stdout_is_terminal();
    match global.output {
        Output::Json => output::json(&events),
        Output::Name => output::print(&events.iter().rev().map(|e| format!("{}\n", e.kind)).collect::<String>()),
        Output::Table => output::print(&render(&events, terminal)),
    }
}

fn render(events: &[SandboxEvent], terminal: bool) -> String {
    let row = |event: &SandboxEvent| {
        let reason = event.reason.clone().unwrap_or_default();
        vec![output::time(&event.at, terminal), event.kind.clone(), event.incarnation.to_string(), reason]
    };
    let rows: Vec<_> = events.iter().rev().map(row).collect();
    output::table(Some(HEADERS), &rows, terminal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_comes_first_with_its_reason() {
        let event = |kind: &str, incarnation, reason: Option<&str>| SandboxEvent {
            at: "2026-01-31T12:00:00.123Z".into(),
            kind: kind.into(),
            incarnation,
            reason: reason.map(str::to_owned),
        };
        let events = [event("resumed", 2, Some("it was used")), event("paused", 1, None)];
        let lines: Vec<String> = render(&events, false).lines().map(str::to_owned).collect();
        assert_eq!(lines[1], "2026-01-31T12:00:00.123Z\tpaused\t1\t");
        assert_eq!(lines[2], "2026-01-31T12:00:00.123Z\tresumed\t2\tit was used");
    }
}
