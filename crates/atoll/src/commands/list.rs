//! `atoll ls`
//!
//! How it works: all pages, then a table on a terminal, tabs and plain numbers in a pipe, JSON when asked.
//!
//! Deliberately absent: sandboxes that are over.

use anyhow::Result;
use atoll_api::Sandbox;
use atoll_client::Client;

use crate::args::{Global, LsArgs, Output};
use crate::output;

const HEADERS: &[&str] = &["ID", "STATUS", "TEMPLATE", "VCPUS", "MEMORY", "DISK", "CREATED"];

/// Lists the sandboxes that are not over.
pub(crate) async fn list(client: &Client, global: &Global, args: &LsArgs) -> Result<()> {
    let sandboxes = client.sandboxes().await?;
    let terminal = output::stdout_is_terminal();
    match global.output {
        Output::Json => output::json(&sandboxes),
        Output::Name => output::print(&sandboxes.iter().map(|s| format!("{}\n", s.id)).collect::<String>()),
        Output::Table if sandboxes.is_empty() && terminal => {
            output::hint("no sandboxes; make one with: atoll create");
            Ok(())
        }
        Output::Table => output::print(&render(&sandboxes, !args.no_headers, terminal)),
    }
}

fn render(sandboxes: &[Sandbox], headers: bool, terminal: bool) -> String {
    let row = |s: &Sandbox| {
        vec![
            s.id.clone(),
            s.status.to_string(),
            s.template.clone(),
            s.vcpus.to_string(),
            size(s.memory_mb, terminal),
            size(s.disk_mb, terminal),
            output::time(&s.created_at, terminal),
        ]
    };
    let rows: Vec<_> = sandboxes.iter().map(row).collect();
    output::table(headers.then_some(HEADERS), &rows, terminal)
}

/// MiB, or GiB where that is whole, for people; the bare number of MiB for programs.
fn size(mb: u32, terminal: bool) -> String {
    match terminal {
        false => mb.to_string(),
        true if mb >= 1024 && mb.is_multiple_of(1024) => format!("{} GiB", mb / 1024),
        true => format!("{mb} MiB"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Vec<Sandbox> {
        let one = |id: &str, status: &str, memory: u32| {
            serde_json::from_value(serde_json::json!({
                "id": id, "status": status, "template": "base", "vcpus": 2, "memory_mb": memory, "disk_mb": 5120,
                "timeout_sec": 0, "created_at": "2026-01-31T12:00:00.123Z", "last_updated": "2026-01-31T12:00:00.123Z",
            }))
            .unwrap()
        };
        vec![one("sb0123456789abcdefghijklmno", "running", 512), one("sb1", "paused", 2048)]
    }

    #[test]
    fn piped_it_is_tabs_and_plain_numbers() {
        insta::assert_snapshot!(render(&two(), true, false));
        assert_eq!(render(&two(), false, false).lines().count(), 2);
    }

    #[test]
    fn on_a_terminal_it_is_columns_and_units() {
        let shown = render(&two(), true, true);
        assert!(shown.starts_with("ID                           STATUS   TEMPLATE  VCPUS  MEMORY   DISK"), "{shown}");
        assert!(shown.contains("512 MiB  5 GiB") && shown.contains("2 GiB"), "{shown}");
    }
}
