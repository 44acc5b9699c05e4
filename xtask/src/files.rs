//! Rules about files that no compiler checks.
//!
//! How it works: every `.rs` file begins with `//!`, has at most 800 lines (those over 500 are listed), holds no unfinished
//! work, and no module has a name that says nothing. What a crate is made of also says how it works and what it leaves out.
//!
//! Deliberately absent: what rustfmt and clippy see.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

const MOST_LINES: usize = 800;
const MANY_LINES: usize = 500;
/// Put together here, so that this file does not find itself.
const UNFINISHED: &[&str] =
    &[concat!("todo", "!("), concat!("unimplemented", "!("), concat!("TO", "DO"), concat!("FIX", "ME")];
/// What the head of a crate's file says besides what it is for, and how that begins.
const HEAD: [(&str, &[&str]); 2] =
    [("how it works", &["//! How it works:"]), ("what is left out", &["//! Deliberately absent:", "//! Does not"])];
const EMPTY_NAMES: &[&str] = &["util", "utils", "helper", "helpers", "manager", "common", "misc"];

/// Checks every source file of the clone.
pub(crate) fn run(root: &Path) -> Result<()> {
    let (mut wrong, mut long) = (Vec::new(), Vec::new());
    for path in sources(root)? {
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        wrong.extend(faults(&name, &text));
        let lines = text.lines().count();
        if lines > MANY_LINES {
            long.push(format!("{lines:>4} lines: {name}"));
        }
    }
    for line in long.iter().chain(&wrong) {
        println!("{line}");
    }
    if !wrong.is_empty() {
        bail!("{} files against the rules", wrong.len());
    }
    Ok(())
}

/// What is wrong with one file.
fn faults(name: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if !text.starts_with("//!") {
        wrong.push(format!("{name}: does not begin with //! (what it is for, how it works, what is absent)"));
    }
    let head = || text.lines().take_while(|line| line.starts_with("//!"));
    if name.starts_with("crates/") && name.contains("/src/") {
        for (said, labels) in HEAD {
            if !head().any(|line| labels.iter().any(|label| line.contains(label))) {
                wrong.push(format!("{name}: its head does not say {said} ({})", labels[0]));
            }
        }
    }
    let lines = text.lines().count();
    if lines > MOST_LINES {
        wrong.push(format!("{name}: {lines} lines, at most {MOST_LINES}"));
    }
    for (number, line) in text.lines().enumerate() {
        if let Some(word) = UNFINISHED.iter().find(|word| line.contains(*word)) {
            wrong.push(format!("{name}:{}: {word}", number + 1));
        }
    }
    let parts = name.trim_end_matches(".rs").split('/');
    if let Some(part) = parts.into_iter().find(|part| EMPTY_NAMES.contains(part)) {
        wrong.push(format!("{name}: `{part}` says nothing, name what is in it"));
    }
    wrong
}

/// Every `.rs` file of ours, in order.
pub(crate) fn sources(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for dir in ["crates", "xtask", "fuzz"] {
        collect(&root.join(dir), &mut found)?;
    }
    found.sort();
    Ok(found)
}

fn collect(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    if !dir.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            if path.file_name().is_some_and(|name| name != "target" && name != "node_modules") {
                collect(&path, found)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_finds_its_fault() {
        let head = "//! What.\n//!\n//! How it works: so.\n//!\n//! Deliberately absent: that.\n";
        assert_eq!(faults("crates/a/src/x.rs", &format!("{head}fn f() {{}}\n")), Vec::<String>::new());
        assert_eq!(faults("crates/a/src/x.rs", "//! What.\n//! How it works: so.\nfn f() {}\n").len(), 1);
        assert_eq!(faults("crates/a/tests/x.rs", "//! What.\nfn f() {}\n"), Vec::<String>::new());
        assert_eq!(faults("x.rs", "fn f() {}\n").len(), 1);
        assert_eq!(faults("x.rs", &format!("//! W.\n{}", "\n".repeat(MOST_LINES))).len(), 1);
        assert_eq!(faults("x.rs", &format!("//! W.\nfn f() {{ {}) }}", UNFINISHED[0])).len(), 1);
        assert_eq!(faults("crates/a/src/utils.rs", head).len(), 1);
    }
}
