//! `atoll scrub`
//!
//! How it works: one call; what is damaged goes to standard output, what to do about it to standard error, and makes exit code 1.
//!
//! Deliberately absent: mending. Every way out gives something up, so its owner chooses.

use anyhow::{Result, anyhow};
use atoll_api::{Damage, ScrubReport};
use atoll_client::Client;

use super::metrics::size;
use crate::args::{Global, LsArgs, Output};
use crate::output;
use crate::progress::waiting;

const HEADERS: &[&str] = &["KIND", "NAME", "WHAT"];

/// Has everything read again and prints what is damaged.
pub(crate) async fn scrub(client: &Client, global: &Global, args: &LsArgs) -> Result<()> {
    let report = waiting("reading everything that is kept", global.quiet, client.scrub()).await?;
    match global.output {
        Output::Json => output::json(&report)?,
        Output::Name => {
            output::print(&report.damaged.iter().map(|damage| format!("{}\n", name(damage))).collect::<String>())?;
        }
        Output::Table if report.damaged.is_empty() => {}
        Output::Table => output::print(&render(&report, !args.no_headers, output::stdout_is_terminal()))?,
    }
    if !global.quiet {
        output::hint(&format!("read {} files, {}", report.files, size(report.bytes)));
        hints(&report).iter().for_each(|hint| output::hint(hint));
    }
    match report.damaged.len() {
        0 => Ok(()),
        1 => Err(anyhow!("one file is damaged")),
        many => Err(anyhow!("{many} files are damaged")),
    }
}

/// What people call it.
fn name(damage: &Damage) -> &str {
    damage.name.as_deref().unwrap_or(&damage.id)
}

fn render(report: &ScrubReport, headers: bool, terminal: bool) -> String {
    let row = |damage: &Damage| vec![damage.kind.clone(), name(damage).to_owned(), damage.reason.clone()];
    let rows: Vec<_> = report.damaged.iter().map(row).collect();
    output::table(headers.then_some(HEADERS), &rows, terminal)
}

/// What can be done, once for each thing.
fn hints(report: &ScrubReport) -> Vec<String> {
    let hint = |damage: &Damage| {
        let name = name(damage);
        match damage.kind.as_str() {
            "template" => format!("template {name}: delete it (atoll template rm {name}) and make it again"),
            "sandbox" => {
                format!("sandbox {name}: atoll resume --disk {name} boots it from its disk and gives its memory up")
            }
            "golden" => format!(
                "golden {name}: creates boot without it; start Atoll once with --golden-shapes none, and it is made again"
            ),
            other => format!("{other} {name}"),
        }
    };
    let mut hints: Vec<String> = report.damaged.iter().map(hint).collect();
    hints.dedup();
    hints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> ScrubReport {
        let damage = |kind: &str, id: &str, name: Option<&str>, reason: &str| Damage {
            kind: kind.into(),
            id: id.into(),
            name: name.map(str::to_owned),
            reason: reason.into(),
        };
        let damaged = vec![
            damage("template", "tpl-1", Some("warm"), "memory.raw: it does not hold what it must"),
            damage("template", "tpl-1", Some("warm"), "state: it does not hold what it must"),
            damage("sandbox", "sb1", None, "diff: it does not hold what it must"),
        ];
        ScrubReport { files: 9, bytes: 1 << 20, damaged }
    }

    #[test]
    fn each_fault_is_a_row_and_each_thing_has_one_hint() {
        let rows = "template\twarm\tmemory.raw: it does not hold what it must\n\
                    template\twarm\tstate: it does not hold what it must\n\
                    sandbox\tsb1\tdiff: it does not hold what it must\n";
        assert_eq!(render(&report(), false, false), rows);
        assert!(render(&report(), true, false).starts_with("KIND\tNAME\tWHAT\n"));
        let hints = hints(&report());
        assert_eq!(hints.len(), 2);
        assert!(hints[0].contains("atoll template rm warm") && hints[1].contains("atoll resume --disk sb1"));
    }
}
