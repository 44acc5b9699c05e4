//! What an exec costs through the whole API, beside the same exec asked of an agent directly.
//!
//! How it works: one sandbox of Atoll's and one bare VM, both idle but for this, in turns: `true` one after the other, then by 16 callers at once
//! as a rate. Transfers and terminals are measured by [`crate::transfer`] and [`crate::echo`] on the same two, names and idle
//! streams afterwards by [`crate::dns`] and [`crate::streams`].
//!
//! Deliberately absent: a p99; there are too few samples for one.

use std::time::Instant;

use anyhow::{Result, ensure};
use atoll_api::{CreateSandboxRequest, ExecRequest};
use atoll_guest_client::GuestClient;
use futures_util::future::try_join_all;

use crate::bare::BareVm;
use crate::{Bench, Series, dns, echo, streams, transfer};

const CALLERS: usize = 16;
/// Execs of one caller in one round.
const EACH: usize = 4;

/// Takes the samples.
pub(crate) async fn measure(bench: &Bench) -> Result<Vec<Series>> {
    let sandbox = bench.client.create(&CreateSandboxRequest::default()).await?;
    let vm = bench.parts.boot().await?;
    let mut out = vec![one_caller(bench, &sandbox.id, &vm.agent).await?];
    out.push(many_callers(bench, &sandbox.id, &vm.agent).await?);
    out.push(echo::measure(bench, &sandbox.id, &vm.agent).await?);
    out.extend(transfer::measure(bench, &sandbox.id, &vm).await?);
    bench.client.destroy(&sandbox.id).await?;
    drop(vm);
    out.extend(dns::measure(bench).await?);
    out.push(streams::measure(bench).await?);
    Ok(out)
}

async fn through_atoll(bench: &Bench, id: &str) -> Result<()> {
    let ended = bench.client.exec(id, &ExecRequest { cmd: "true".into(), ..ExecRequest::default() }).await?;
    ensure!(ended.exit_code == 0, "`true` ended with {}", ended.exit_code);
    Ok(())
}

async fn one_caller(bench: &Bench, id: &str, agent: &GuestClient) -> Result<Series> {
    let mut series = Series::new("exec of true, 1 caller, ms");
    // Both translate the same code first.
    for _ in 0..10 {
        through_atoll(bench, id).await?;
        BareVm::exec(agent, "true", &[]).await?;
    }
    for turn in 1..=bench.pairs * 4 {
        let started = Instant::now();
        through_atoll(bench, id).await?;
        series.atoll.push(started.elapsed().as_secs_f64() * 1000.0);
        let started = Instant::now();
        BareVm::exec(agent, "true", &[]).await?;
        series.bare.push(started.elapsed().as_secs_f64() * 1000.0);
        if turn % 20 == 0 {
            eprintln!("execs: pair {turn} of {}", bench.pairs * 4);
        }
    }
    Ok(series)
}

async fn many_callers(bench: &Bench, id: &str, agent: &GuestClient) -> Result<Series> {
    let mut series = Series::new("exec of true, 16 callers, execs a second");
    let rate = |started: Instant| {
        f64::from(u32::try_from(CALLERS * EACH).unwrap_or(u32::MAX)) / started.elapsed().as_secs_f64()
    };
    for turn in 1..=bench.pairs.div_ceil(4) {
        let started = Instant::now();
        try_join_all((0..CALLERS).map(|_| async {
            for _ in 0..EACH {
                through_atoll(bench, id).await?;
            }
            anyhow::Ok(())
        }))
        .await?;
        series.atoll.push(rate(started));
        let started = Instant::now();
        try_join_all((0..CALLERS).map(|_| async {
            for _ in 0..EACH {
                BareVm::exec(agent, "true", &[]).await?;
            }
            anyhow::Ok(())
        }))
        .await?;
        series.bare.push(rate(started));
        eprintln!("execs by {CALLERS} callers: round {turn} of {}", bench.pairs.div_ceil(4));
    }
    Ok(series)
}
