//! The project's own commands: `cargo xtask build | check | check-deps | test | soak | demo`.
//!
//! How it works: one file per command; `make` and `.ci/run` call nothing else. What takes long is a [`stage`], with a line
//! and a time of its own. Only std, anyhow and serde_json, so that it compiles in seconds.
//!
//! Deliberately absent: installing packages (`scripts/setup`), and anything that a running Atoll needs.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool prints")]

mod bench;
mod build;
mod check;
mod check_deps;
mod demo;
mod files;
mod instance;
mod placement;
mod soak;
mod stage;
mod test;
mod workspace;

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::build::Profile;
use crate::workspace::Workspace;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  build [--profile release|dist]  the one binary, with keeper and guest agent inside: target/PROFILE/atoll
  check [--quick]                 format, file rules, placement, crate directions; and clippy, unless quick
  check-deps                      crate directions alone
  test [STAGE...]                 everything that CI runs: check build tests vms (all of them by default)
  soak [--seconds N]              what takes longer: each fuzz target for a minute, all of the kill matrix,
                                  a thousand cycles of the long test
  bench WHAT [--pairs N] [--sandboxes N] [--part NAME] [--profile release|dist] [--binary FILE]
        boot       create to the first exec result, in turns with the bare sequence (50 pairs)
        exec       execs, keys, transfers, names, idle streams, in turns with a VM without Atoll (50); `dns` and `streams` alone too
        life       starts from a golden, resumes, pauses, snapshots (50 pairs); --part starts, rates, pauses, snapshots, bytes or memory
        footprint  memory with 0 and 20 sandboxes, a keeper's own, start to listening (5 rounds)
        durable    from a kill of Atoll to every one of 20, and of 60, sandboxes having answered (5 kills each)
  demo [--binary FILE]            boots a real VM and runs a Python program inside it";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<()> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let workspace = Workspace::find()?;
    match words.as_slice() {
        ["build"] => build::run(&workspace, Profile::Release).map(|_| ()),
        ["build", "--profile", name] => build::run(&workspace, Profile::parse(name)?).map(|_| ()),
        ["check"] => check::run(&workspace, true),
        ["check", "--quick"] => check::run(&workspace, false),
        ["check-deps"] => check_deps::run(&workspace),
        ["test", stages @ ..] => test::run(&workspace, stages),
        ["soak"] => soak::run(&workspace, "60"),
        ["soak", "--seconds", seconds] => soak::run(&workspace, seconds),
        ["bench", what, options @ ..] => bench::run(&workspace, what, options),
        ["demo"] => demo::run(&workspace, None),
        ["demo", "--binary", path] => demo::run(&workspace, Some(path)),
        [] | ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        other => bail!("unknown command `{}`\n{USAGE}", other.join(" ")),
    }
}
