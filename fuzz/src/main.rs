//! Fuzzing of what parses hostile bytes: `atoll-fuzz list | TARGET [--seconds N] [--seed N] | replay TARGET FILE`.
//!
//! How it works: each target in [`targets`] is a function of bytes that must not panic, hang or take much memory. The
//! [`engine`] mutates what it has, keeps the inputs that reach new code ([`coverage`], when the build counts edges, as `make
//! soak` does), and writes an input that fails to `target/fuzz/`, where `replay` takes it from. A finding becomes a file in
//! `fuzz/corpus/TARGET/`, which every run begins with, and a test of the crate it was found in.
//!
//! Deliberately absent: libFuzzer and sanitizers, which need a nightly compiler or a C++ one.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool prints")]
#![expect(unsafe_code, reason = "edge counters and the allocator are given to us as raw memory")]

mod coverage;
mod engine;
mod memory;
mod mutate;
mod targets;

use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::engine::Run;
use crate::targets::{TARGETS, Target};

const USAGE: &str = "usage: atoll-fuzz list | TARGET [--seconds N] [--seed N] | replay TARGET FILE";

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["list"] => {
            for target in TARGETS {
                println!("{}", target.name);
            }
            Ok(())
        }
        ["replay", name, file] => {
            let input = std::fs::read(file).with_context(|| format!("cannot read {file}"))?;
            engine::replay(find(name)?, &input)
        }
        [name, options @ ..] => engine::run(find(name)?, &settings(options)?),
        [] => bail!(USAGE),
    }
}

fn find(name: &str) -> Result<&'static Target> {
    TARGETS.iter().find(|target| target.name == name).with_context(|| format!("no target `{name}`\n{USAGE}"))
}

fn settings(options: &[&str]) -> Result<Run> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).context("the clock is before 1970")?;
    let mut run = Run { time: Duration::from_mins(1), seed: u64::from(now.subsec_nanos()) ^ now.as_secs() };
    for pair in options.chunks(2) {
        match pair {
            ["--seconds", value] => run.time = Duration::from_secs(value.parse().context("--seconds")?),
            ["--seed", value] => run.seed = value.parse().context("--seed")?,
            other => bail!("unknown option `{}`\n{USAGE}", other.join(" ")),
        }
    }
    Ok(run)
}
