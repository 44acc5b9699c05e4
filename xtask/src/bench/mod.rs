//! Figures: what Atoll costs.
//!
//! How it works: one file per benchmark; [`statistics`] and [`machine`] say how figures are reported: medians with an
//! interval, and beside them the load and the steal of the machine, since a busy machine's figures mean little.
//!
//! Deliberately absent: thresholds. A figure is for a person to judge.

pub(crate) mod durable;
pub(crate) mod footprint;
pub(crate) mod machine;
pub(crate) mod pairs;
pub(crate) mod statistics;

use anyhow::{Context as _, Result, bail};

use crate::build::Profile;
use crate::workspace::Workspace;

/// Runs one benchmark, with its options.
pub(crate) fn run(workspace: &Workspace, what: &str, options: &[&str]) -> Result<()> {
    let (mut pairs, mut profile) = (None, Profile::Dist);
    let mut options = options.iter();
    while let Some(option) = options.next() {
        let value = options.next().with_context(|| format!("{option} takes a value"))?;
        match *option {
            "--pairs" => pairs = Some(value.parse().with_context(|| format!("--pairs `{value}` is not a number"))?),
            "--profile" => profile = Profile::parse(value)?,
            other => bail!("`{other}` is not known; there are --pairs and --profile"),
        }
    }
    match what {
        "boot" | "exec" | "dns" | "streams" => pairs::run(workspace, profile, what, pairs.unwrap_or(50)),
        "footprint" => footprint::run(workspace, profile, pairs.unwrap_or(5)),
        "durable" => durable::run(workspace, profile, &[20, 60], pairs.unwrap_or(5)),
        other => bail!("no benchmark `{other}`; there are boot, exec, dns, streams, footprint, durable"),
    }
}
