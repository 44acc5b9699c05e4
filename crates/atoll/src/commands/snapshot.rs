//! `atoll snapshot` and `atoll template`
//!
//! How it works: one call each; removing several goes on after a failure, which makes the exit code.
//!
//! Deliberately absent: copying templates between Atolls.

use anyhow::Result;
use atoll_api::{CreateSnapshotRequest, Snapshot};
use atoll_client::Client;

use super::create::duration;
use super::metrics::size;
use crate::args::{Global, LsArgs, Output, SnapshotArgs, TemplateRmArgs};
use crate::progress::waiting;
use crate::{connect, output};

const HEADERS: &[&str] = &["NAME", "TYPE", "VCPUS", "MEMORY", "DISK", "SIZE", "CREATED"];

/// Makes a template of a sandbox and prints its name.
pub(crate) async fn snapshot(client: &Client, global: &Global, args: SnapshotArgs) -> Result<()> {
    let id = connect::resolve(client, &args.id).await?;
    let request = CreateSnapshotRequest { sandbox_id: id.clone(), name: args.name };
    let work = client.create_snapshot(&request, args.overwrite);
    let made = waiting(&format!("making a template of {id}"), global.quiet, work).await?;
    if !global.quiet {
        let stood = made.stood_still_ms.map(|ms| format!(", {id} stood still for {}", duration(ms)));
        output::hint(&format!("{}: {}{}", made.name, size(made.size_bytes), stood.unwrap_or_default()));
    }
    match global.output {
        Output::Json => output::json(&made),
        Output::Table | Output::Name => output::print(&format!("{}\n", made.name)),
    }
}

/// Lists the team's templates.
pub(crate) async fn templates(client: &Client, global: &Global, args: &LsArgs) -> Result<()> {
    let templates = client.snapshots(None).await?;
    let terminal = output::stdout_is_terminal();
    match global.output {
        Output::Json => output::json(&templates),
        Output::Name => output::print(&templates.iter().map(|t| format!("{}\n", t.name)).collect::<String>()),
        Output::Table if templates.is_empty() && terminal => {
            output::hint("no templates besides `base`; make one with: atoll snapshot SANDBOX NAME");
            Ok(())
        }
        Output::Table => output::print(&render(&templates, !args.no_headers, terminal)),
    }
}

fn render(templates: &[Snapshot], headers: bool, terminal: bool) -> String {
    let row = |t: &Snapshot| {
        let bytes = if terminal { size(t.size_bytes) } else { t.size_bytes.to_string() };
        let number = |n: u32| n.to_string();
        let created = output::time(&t.created_at, terminal);
        vec![t.name.clone(), t.kind.clone(), number(t.vcpus), number(t.memory_mb), number(t.disk_mb), bytes, created]
    };
    let rows: Vec<_> = templates.iter().map(row).collect();
    output::table(headers.then_some(HEADERS), &rows, terminal)
}

/// Deletes templates, each in turn.
pub(crate) async fn remove_templates(client: &Client, global: &Global, args: &TemplateRmArgs) -> Result<()> {
    let mut removed = Vec::new();
    for name in &args.names {
        client.delete_snapshot(name).await?;
        removed.push(name);
    }
    match global.output {
        Output::Json => output::json(&removed),
        Output::Table | Output::Name => {
            output::print(&removed.iter().map(|name| format!("{name}\n")).collect::<String>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn piped_sizes_are_bytes_and_on_a_terminal_they_have_units() {
        let one: Snapshot = serde_json::from_value(serde_json::json!({
            "name": "warm", "type": "snapshot", "vcpus": 1, "memory_mb": 256, "disk_mb": 512, "size_bytes": 3 << 20,
            "created_at": "2026-01-31T12:00:00.123Z",
        }))
        .unwrap();
        let piped = render(std::slice::from_ref(&one), false, false);
        assert_eq!(piped, "warm\tsnapshot\t1\t256\t512\t3145728\t2026-01-31T12:00:00.123Z\n");
        assert!(render(&[one], true, true).contains("3.0 MiB"));
    }
}
