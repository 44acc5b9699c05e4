//! Invariant 2 as a lint: SQL only in store, `unsafe` only where the machine is touched.
//!
//! How it works: line by line over the sources, comments left out. Libraries are confined by their dependencies
//! (`check_deps`); what is left for the text is SQL in string literals, permission for `unsafe`, and generated types in
//! crates that get them through another.
//!
//! Deliberately absent: parsing Rust. The few patterns are those that people write.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::files;

/// Who may hold `unsafe` code.
const UNSAFE: &[&str] = &["atoll-guest", "atoll-keeper", "atoll-net"];
/// Who may hold SQL.
const SQL: &[&str] = &["atoll-store"];
/// Beginnings of statements, as they stand in a string literal.
const STATEMENTS: &[&str] =
    &["\"SELECT ", "\"INSERT INTO ", "\"UPDATE ", "\"DELETE FROM ", "\"CREATE TABLE ", "\"ALTER TABLE ", "\"PRAGMA "];

/// Checks every source file of the crates.
pub(crate) fn run(root: &Path) -> Result<()> {
    let mut wrong = Vec::new();
    for path in files::sources(root)? {
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        let Some(owner) = name.strip_prefix("crates/").and_then(|rest| rest.split('/').next()) else {
            continue;
        };
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        wrong.extend(faults(owner, &name, &text));
    }
    for fault in &wrong {
        println!("{fault}");
    }
    if !wrong.is_empty() {
        bail!("{} lines against invariant 2", wrong.len());
    }
    Ok(())
}

fn faults(owner: &str, name: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    // Tests may look into a database or call the system; what ships may not.
    let test = name.contains("/tests/");
    for (number, line) in text.lines().enumerate() {
        let code = line.trim_start();
        if code.starts_with("//") {
            continue;
        }
        let is_unsafe = code.contains("unsafe_code)") || code.contains("unsafe {") || code.contains("unsafe fn ");
        if is_unsafe && !UNSAFE.contains(&owner) {
            wrong.push(format!("{name}:{}: unsafe is for {} alone", number + 1, UNSAFE.join(", ")));
        }
        if !test && !SQL.contains(&owner) && STATEMENTS.iter().any(|statement| code.contains(statement)) {
            wrong.push(format!("{name}:{}: SQL is for {} alone", number + 1, SQL.join(", ")));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sql_and_unsafe_are_found_outside_their_crates() {
        let sql = "let q = \"SELECT id FROM sandboxes\";";
        assert_eq!(faults("atoll-web", "crates/atoll-web/src/a.rs", sql).len(), 1);
        assert_eq!(faults("atoll-store", "crates/atoll-store/src/a.rs", sql).len(), 0);
        let block = "let x = unsafe { f() };";
        assert_eq!(faults("atoll-host", "crates/atoll-host/src/a.rs", block).len(), 1);
        assert_eq!(faults("atoll-net", "crates/atoll-net/src/a.rs", block).len(), 0);
        assert_eq!(faults("atoll-web", "crates/atoll-web/src/a.rs", "// unsafe { }").len(), 0);
    }
}
