//! `cargo xtask check-deps`: who may depend on whom.
//!
//! How it works: `cargo metadata` names every direct dependency; the first table says which of our crates each may use, the
//! second where the libraries live that must not spread (invariant 2). Dev-dependencies are free of both, except that
//! nothing but tests may use atoll-testkit. A new crate must be entered here before it compiles in CI.
//!
//! Deliberately absent: indirect dependencies (they follow from the direct ones).

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::workspace::Workspace;

const DOMAIN: &str = "atoll-domain";
const FAILPOINT: &str = "atoll-failpoint";
const PROTO: &str = "atoll-proto";
const GUEST_CLIENT: &str = "atoll-guest-client";
/// For those that put everything together: nobody may use these.
const ALL: [&str; 15] = [
    DOMAIN,
    FAILPOINT,
    PROTO,
    GUEST_CLIENT,
    "atoll-api",
    "atoll-auth",
    "atoll-client",
    "atoll-control",
    "atoll-disk",
    "atoll-guest",
    "atoll-host",
    "atoll-keeper",
    "atoll-net",
    "atoll-store",
    "atoll-web",
];

/// Each crate with those of ours that it may use.
const DIRECTIONS: &[(&str, &[&str])] = &[
    ("atoll-domain", &[]),
    ("atoll-failpoint", &[]),
    ("atoll-proto", &[DOMAIN]),
    ("atoll-api", &[DOMAIN]),
    ("atoll-store", &[DOMAIN, FAILPOINT]),
    ("atoll-auth", &[DOMAIN]),
    ("atoll-keeper", &[DOMAIN]),
    ("atoll-net", &[DOMAIN]),
    ("atoll-disk", &[DOMAIN]),
    ("atoll-guest", &[DOMAIN, PROTO]),
    ("atoll-guest-client", &[DOMAIN, PROTO]),
    ("atoll-host", &[DOMAIN, FAILPOINT, PROTO, "atoll-keeper", "atoll-net", "atoll-disk", GUEST_CLIENT]),
    ("atoll-control", &[DOMAIN, FAILPOINT, PROTO, "atoll-store", "atoll-auth", GUEST_CLIENT]),
    ("atoll-web", &[DOMAIN, "atoll-api", "atoll-auth", "atoll-control", GUEST_CLIENT]),
    ("atoll-client", &[DOMAIN, "atoll-api"]),
    ("atoll", &ALL),
    ("atoll-testkit", &ALL),
    ("atoll-bench", &ALL),
    ("atoll-fuzz", &ALL),
    ("xtask", &[]),
];

/// Libraries (by the beginning of their name) with the only crates that may use them.
const CONFINED: &[(&str, &[&str])] = &[
    ("axum", &["atoll-web"]),
    ("tower-http", &["atoll-web"]),
    ("utoipa-axum", &["atoll-web"]),
    ("utoipa", &["atoll-api", "atoll-web"]),
    ("sea-orm", &["atoll-store"]),
    ("sqlx", &["atoll-store"]),
    ("rusqlite", &["atoll-store"]),
    (
        "connectrpc",
        &["atoll-proto", "atoll-guest", "atoll-guest-client", "atoll-host", "atoll-control", "atoll-testkit"],
    ),
    ("buffa", &["atoll-proto", "atoll-guest", "atoll-guest-client", "atoll-host", "atoll-control", "atoll-testkit"]),
    ("clap", &["atoll"]),
    ("anyhow", &["atoll", "atoll-bench", "atoll-fuzz", "xtask"]),
    ("reqwest", &["atoll-client"]),
];

/// All that atoll-domain may use: it is pure.
const PURE: &[&str] = &["serde", "thiserror"];

/// One direct dependency.
#[derive(Debug, Clone, Copy)]
struct Dependency<'a> {
    of: &'a str,
    on: &'a str,
    kind: &'a str,
    optional: bool,
}

/// Compares the workspace with the tables.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let output = workspace.cargo(&["metadata", "--no-deps", "--format-version", "1"]).output();
    let output = output.context("cannot start cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata is not JSON")?;
    let wrong = faults(&metadata)?;
    for fault in &wrong {
        println!("{fault}");
    }
    if !wrong.is_empty() {
        bail!("{} wrong dependencies", wrong.len());
    }
    Ok(())
}

/// Every dependency that a table forbids.
fn faults(metadata: &Value) -> Result<Vec<String>> {
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let mut wrong = Vec::new();
    for package in packages {
        let of = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = DIRECTIONS.iter().find(|(name, _)| *name == of) else {
            wrong.push(format!("{of}: not in the table of crate directions (xtask/src/check_deps.rs)"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let dependency = Dependency {
                of,
                on: dependency["name"].as_str().unwrap_or_default(),
                kind: dependency["kind"].as_str().unwrap_or("normal"),
                optional: dependency["optional"].as_bool().unwrap_or_default(),
            };
            wrong.extend(fault(dependency, allowed));
        }
    }
    Ok(wrong)
}

fn fault(dependency: Dependency<'_>, allowed: &[&str]) -> Option<String> {
    let Dependency { of, on, kind, optional } = dependency;
    if kind == "dev" || of == on {
        return None;
    }
    if on.starts_with("atoll") && !allowed.contains(&on) {
        return Some(format!("{of} -> {on}: against the crate directions"));
    }
    if of == "atoll-domain" && !PURE.contains(&on) {
        return Some(format!("{of} -> {on}: atoll-domain is pure (only {})", PURE.join(", ")));
    }
    if of == "atoll-keeper" && on == "tokio" && !optional {
        return Some(format!("{of} -> {on}: the keeper itself is built without tokio"));
    }
    let confined = CONFINED.iter().filter(|(name, _)| on == *name || on.starts_with(&format!("{name}-")));
    // The longest name that fits decides: utoipa-axum is not utoipa.
    let (name, only) = confined.max_by_key(|(name, _)| name.len())?;
    (!only.contains(&of) && kind == "normal").then(|| format!("{of} -> {on}: {name} is for {} alone", only.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(of: &str, on: &str, kind: Option<&str>) -> Value {
        let dependency = serde_json::json!({ "name": on, "kind": kind, "optional": false });
        serde_json::json!({ "packages": [{ "name": of, "dependencies": [dependency] }] })
    }

    #[test]
    fn wrong_directions_and_spread_libraries_are_found() {
        for (of, on) in [
            ("atoll-domain", "atoll-store"),
            ("atoll-domain", "tokio"),
            ("atoll-store", "atoll-web"),
            ("atoll-control", "axum"),
            ("atoll-host", "sea-orm-migration"),
            ("atoll-api", "utoipa-axum"),
            ("atoll-keeper", "tokio"),
            ("atoll-web", "atoll-testkit"),
            ("atoll-new", "serde"),
        ] {
            assert_eq!(faults(&metadata(of, on, None)).unwrap().len(), 1, "{of} -> {on}");
        }
    }

    #[test]
    fn what_is_allowed_passes() {
        for (of, on, kind) in [
            ("atoll-web", "axum", None),
            ("atoll-api", "utoipa", None),
            ("atoll-control", "atoll-testkit", Some("dev")),
            ("atoll-host", "atoll-keeper", None),
            ("atoll-proto", "connectrpc-build", Some("build")),
        ] {
            assert_eq!(faults(&metadata(of, on, kind)).unwrap(), Vec::<String>::new(), "{of} -> {on}");
        }
    }
}
