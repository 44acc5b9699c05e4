//! `cargo xtask soak`: what takes longer than CI has.
//!
//! How it works: fuzz targets, a minute each (`--seconds` says otherwise), then every case of the kill matrix, then a thousand cycles of the
//! long test. The targets are built with LLVM's edge counters, by flags that a stable compiler knows, into a target directory of
//! their own, since the flags reach every dependency.
//!
//! Deliberately absent: seeds that are chosen here; each run draws its own and prints it.

use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use crate::stage::{self, Stages};
use crate::workspace::Workspace;

const EDGE_COUNTERS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Ccodegen-units=1 -Copt-level=2";

/// Runs everything, each fuzz target for so many seconds.
pub(crate) fn run(workspace: &Workspace, seconds: &str) -> Result<()> {
    if seconds.parse::<u32>().is_err() {
        bail!("--seconds `{seconds}` is not a number");
    }
    let mut stages = Stages::new();
    stages.run("fuzzing", || fuzz(workspace, seconds));
    stages.run("the whole kill matrix", || crate::test::whole_kill_matrix(workspace));
    stages.run("the long test", || crate::test::long_test(workspace));
    stages.finish()
}

/// Builds the fuzzer and runs every target; all of them, whatever fails.
fn fuzz(workspace: &Workspace, seconds: &str) -> Result<()> {
    let _used = workspace.using()?;
    let host = crate::build::host_target()?;
    let directory = workspace.target.join("fuzz-build");
    let mut build = workspace.cargo(&["build", "--release", "--package", "atoll-fuzz", "--target", &host]);
    build.env("CARGO_TARGET_DIR", &directory).env("RUSTFLAGS", EDGE_COUNTERS);
    stage::run(&mut build)?;
    let fuzzer = directory.join(&host).join("release/atoll-fuzz");
    let command = |words: &[&str]| {
        let mut command = std::process::Command::new(&fuzzer);
        command.args(words).current_dir(&workspace.root).stdin(Stdio::null());
        command
    };
    let listed = command(&["list"]).output().context("cannot start the fuzzer")?;
    let names = String::from_utf8(listed.stdout).context("names of targets are text")?;
    let failed: Vec<&str> = names
        .lines()
        .filter(|name| {
            let outcome = stage::run(&mut command(&[name, "--seconds", seconds]));
            outcome.inspect_err(|error| println!("{error:#}")).is_err()
        })
        .collect();
    if !failed.is_empty() {
        bail!("{}", failed.join(", "));
    }
    Ok(())
}
