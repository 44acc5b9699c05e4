//! Figures: what Atoll costs.
//!
//! How it works: one file per benchmark; [`statistics`] and [`machine`] say how figures are reported: medians with an
//! interval, and beside them the load and the steal of the machine, since a busy machine's figures mean little.
//!
//! Deliberately absent: thresholds. A figure is for a person to judge.

pub(crate) mod durable;
pub(crate) mod footprint;
pub(crate) mod life;
pub(crate) mod machine;
pub(crate) mod pairs;
pub(crate) mod statistics;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::build::{self, Profile};
use crate::workspace::Workspace;

/// How a benchmark is run.
#[derive(Debug)]
pub(crate) struct Options {
    profile: Profile,
    /// A binary that is there, instead of one that is built.
    binary: Option<PathBuf>,
    /// Pairs, rounds or kills.
    times: Option<usize>,
    /// How many sandboxes, where that counts.
    sandboxes: Option<usize>,
    /// Which part of a benchmark that has some.
    part: Option<String>,
}

impl Options {
    fn parse(words: &[&str]) -> Result<Self> {
        let mut options = Self { profile: Profile::Dist, binary: None, times: None, sandboxes: None, part: None };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let value = words.next().with_context(|| format!("{word} takes a value"))?;
            let number = || value.parse().with_context(|| format!("{word} `{value}` is not a number"));
            match *word {
                "--pairs" => options.times = Some(number()?),
                "--sandboxes" => options.sandboxes = Some(number()?),
                "--part" => options.part = Some((*value).to_owned()),
                "--profile" => options.profile = Profile::parse(value)?,
                "--binary" => options.binary = Some(std::path::absolute(value).context("the path of the binary")?),
                other => {
                    bail!("`{other}` is not known; there are --pairs, --sandboxes, --part, --profile and --binary")
                }
            }
        }
        Ok(options)
    }

    /// The Atoll that is measured.
    fn atoll(&self, workspace: &Workspace) -> Result<PathBuf> {
        match &self.binary {
            Some(binary) => Ok(binary.clone()),
            None => build::run(workspace, self.profile),
        }
    }
}

/// Runs one benchmark, with its options.
pub(crate) fn run(workspace: &Workspace, what: &str, words: &[&str]) -> Result<()> {
    let options = Options::parse(words)?;
    match what {
        "boot" | "exec" | "dns" | "streams" => pairs::run(workspace, &options, what, options.times.unwrap_or(50)),
        "life" => life::run(workspace, &options, options.times.unwrap_or(50)),
        "footprint" => footprint::run(workspace, &options, options.times.unwrap_or(5)),
        "durable" => {
            let counts = options.sandboxes.map_or_else(|| vec![20, 60], |count| vec![count]);
            durable::run(workspace, &options, &counts, options.times.unwrap_or(5))
        }
        other => bail!("no benchmark `{other}`; there are boot, exec, dns, streams, life, footprint, durable"),
    }
}
