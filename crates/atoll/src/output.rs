//! What is printed where.
//!
//! How it works: standard output carries data, standard error everything else. A table is padded on a terminal and separated by tabs
//! when piped; times are relative on a terminal and RFC 3339 when piped. A reader that goes away ends the command quietly.
//!
//! Deliberately absent: reshaping. `-o json` prints the API's own objects.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Result;
use serde::Serialize;

/// A reader of standard output that went away: no error for anybody to read.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the output")]
pub(crate) struct ReaderGone;

/// Writes data.
pub(crate) fn print(text: &str) -> Result<()> {
    write_to(&mut io::stdout().lock(), text.as_bytes())
}

/// Writes bytes to standard output.
pub(crate) fn write_stdout(bytes: &[u8]) -> Result<()> {
    write_to(&mut io::stdout().lock(), bytes)
}

/// Writes bytes to standard error.
pub(crate) fn write_stderr(bytes: &[u8]) -> Result<()> {
    write_to(&mut io::stderr().lock(), bytes)
}

fn write_to(out: &mut impl io::Write, bytes: &[u8]) -> Result<()> {
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        other => Ok(other?),
    }
}

/// Writes one JSON document.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

/// Says something to people.
pub(crate) fn hint(text: &str) {
    // Nobody to tell it to is no failure.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Whether standard input is a terminal.
pub(crate) fn stdin_is_terminal() -> bool {
    io::stdin().is_terminal()
}

/// Whether standard output is a terminal.
pub(crate) fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Whether standard error is a terminal.
pub(crate) fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Whether standard error takes colour.
pub(crate) fn colour_on_stderr() -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    (set("CLICOLOR_FORCE") || stderr_is_terminal() && !dumb) && !set("NO_COLOR")
}

/// Rows under names: padded columns for a terminal, tabs between them otherwise.
pub(crate) fn table(headers: Option<&[&str]>, rows: &[Vec<String>], terminal: bool) -> String {
    let mut lines: Vec<Vec<String>> = Vec::with_capacity(rows.len() + 1);
    lines.extend(headers.map(|names| names.iter().map(|name| (*name).to_owned()).collect()));
    lines.extend(rows.iter().map(|row| row.iter().map(|cell| clean(cell)).collect()));
    let columns = lines.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| lines.iter().filter_map(|line| Some(line.get(column)?.chars().count())).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let mut out = String::new();
    for line in &lines {
        let text = if terminal {
            let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
            cells.collect::<Vec<_>>().join("  ")
        } else {
            line.join("\t")
        };
        out.push_str(text.trim_end_matches(' '));
        out.push('\n');
    }
    out
}

/// A cell that can break neither a line nor a terminal.
fn clean(cell: &str) -> String {
    cell.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A time from the API: how long ago for people, itself for programs.
pub(crate) fn time(text: &str, terminal: bool) -> String {
    if !terminal {
        return text.to_owned();
    }
    match text.parse::<jiff::Timestamp>() {
        Ok(at) => age(jiff::Timestamp::now().as_second() - at.as_second()),
        Err(_) => text.to_owned(),
    }
}

fn age(seconds: i64) -> String {
    match seconds {
        ..5 => "just now".into(),
        5..120 => format!("{seconds} s ago"),
        120..7200 => format!("{} min ago", seconds / 60),
        7200..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Vec<String>> {
        vec![vec!["sb1".into(), "running".into()], vec!["sb22222".into(), "a\u{1b}[31m\nb".into()]]
    }

    #[test]
    fn a_table_is_padded_for_people_and_tabbed_for_programs() {
        insta::assert_snapshot!(table(Some(&["ID", "STATUS"]), &rows(), true), @r"
        ID       STATUS
        sb1      running
        sb22222  a [31m b
        ");
        assert_eq!(table(None, &rows(), false), "sb1\trunning\nsb22222\ta [31m b\n");
    }

    #[test]
    fn times_are_relative_for_people_alone() {
        assert_eq!(time("2026-01-31T12:00:00.123Z", false), "2026-01-31T12:00:00.123Z");
        assert_eq!(time("nonsense", true), "nonsense");
        for (seconds, text) in [(0, "just now"), (61, "61 s ago"), (3600, "60 min ago"), (90_000, "25 h ago")] {
            assert_eq!(age(seconds), text);
        }
    }
}
