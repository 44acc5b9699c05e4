//! Takes the samples that `cargo xtask bench` reports on.
//!
//! How it works: what goes through a running Atoll's API is measured in turns with the bare sequence that has no Atoll in it
//! ([`bare`]: the same VMM, kernel, agent, disk, namespace). Only samples are printed, as one JSON document; medians and intervals are
//! the reporter's.
//!
//! Deliberately absent: thresholds, and a start of Atoll (the reporter's too).
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "its output is what it is for")]

mod answer;
mod bare;
mod boot;
mod clone;
mod cpu;
mod dns;
mod echo;
mod exec;
mod life;
mod memory;
mod sockets;
mod streams;
mod transfer;

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use atoll_client::{Client, Endpoint};
use serde::Serialize;

use crate::bare::Parts;

/// One thing that was measured both ways, in the order in which it was.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Series {
    /// What, with its unit.
    pub(crate) name: String,
    /// Through Atoll.
    pub(crate) atoll: Vec<f64>,
    /// Without it; empty where there is nothing to compare with.
    pub(crate) bare: Vec<f64>,
}

impl Series {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }
}

/// What a measurement is given.
pub(crate) struct Bench {
    /// The running Atoll.
    pub(crate) client: Client,
    /// Its process.
    pub(crate) pid: u32,
    /// What a bare VM is made of.
    pub(crate) parts: Parts,
    /// Where the benchmark's own resolver is to listen, for Atoll's keepers.
    pub(crate) resolver: Option<IpAddr>,
    /// How many pairs are taken of what is short.
    pub(crate) pairs: usize,
}

const USAGE: &str =
    "usage: atoll-bench boot|exec|dns|streams|life --data DIR --pid PID --guest FILE [--pairs N] [--resolver IP] [--part PART]
       atoll-bench answer --data DIR --ids ID,ID...";

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    println!("{}", runtime.block_on(run(std::env::args().skip(1)))?);
    Ok(())
}

/// Measures; answers JSON.
async fn run(mut args: impl Iterator<Item = String>) -> Result<serde_json::Value> {
    let command = args.next().context(USAGE)?;
    let (mut data, mut pid, mut guest, mut pairs, mut resolver, mut ids) = (None, None, None, 50, None, None);
    let mut part = "all".to_owned();
    while let Some(flag) = args.next() {
        let value = args.next().context(USAGE)?;
        match flag.as_str() {
            "--data" => data = Some(PathBuf::from(value)),
            "--pid" => pid = Some(value.parse().context("--pid takes a number")?),
            "--guest" => guest = Some(PathBuf::from(value)),
            "--pairs" => pairs = value.parse().context("--pairs takes a number")?,
            "--resolver" => resolver = Some(value.parse().context("--resolver takes an address")?),
            "--ids" => ids = Some(value),
            "--part" => part = value,
            other => bail!("{other} is not known\n{USAGE}"),
        }
    }
    let data = data.context(USAGE)?;
    if command == "answer" {
        return Ok(serde_json::to_value(answer::measure(data, &ids.context(USAGE)?).await?)?);
    }
    let (pid, guest) = (pid.context(USAGE)?, guest.context(USAGE)?);
    let (client, parts) = (Client::new(&Endpoint::Data(data.clone()))?, Parts::find(&guest)?);
    let bench = Bench { client, pid, parts, resolver, pairs };
    let series = match command.as_str() {
        "boot" => boot::measure(&bench).await?,
        "exec" => exec::measure(&bench).await?,
        "dns" => dns::measure(&bench).await?,
        "streams" => vec![streams::measure(&bench).await?],
        "life" => life::measure(&bench, &data, &part).await?,
        other => bail!("{other} is not known\n{USAGE}"),
    };
    Ok(serde_json::to_value(series)?)
}
