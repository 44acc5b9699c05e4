//! What an idle stream costs Atoll.
//!
//! How it works: 200 programs that sleep are each followed over a WebSocket of their own; what Atoll's resident memory grew by from before
//! the first to after the last, a moment later, divided by their number. Then all are stopped, and the next round begins.
//!
//! Deliberately absent: the client's own memory, and the guest's.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use atoll_api::{CreateSandboxRequest, StreamStart};
use atoll_client::{ExecEvent, ExecStream};
use tokio::time::timeout;

use crate::memory::kib;
use crate::{Bench, Series};

const STREAMS: u32 = 200;
const ROUNDS: usize = 3;
const LIMIT: Duration = Duration::from_secs(60);
/// What a start still holds is given back meanwhile.
const REST: Duration = Duration::from_secs(3);

/// Takes the samples.
pub(crate) async fn measure(bench: &Bench) -> Result<Series> {
    let mut series = Series::new(&format!("resident memory of Atoll for one of {STREAMS} idle streams, KiB"));
    let sandbox = bench.client.create(&CreateSandboxRequest::default()).await?;
    // The first ones make the allocator's pools and the client's connections.
    round(bench, &sandbox.id).await?;
    for turn in 1..=ROUNDS {
        series.atoll.push(round(bench, &sandbox.id).await?);
        eprintln!("idle streams: round {turn} of {ROUNDS}");
    }
    bench.client.destroy(&sandbox.id).await?;
    Ok(series)
}

async fn round(bench: &Bench, id: &str) -> Result<f64> {
    tokio::time::sleep(REST).await;
    let before = kib(bench.pid, "VmRSS")?;
    let mut streams = Vec::new();
    for number in 1..=STREAMS {
        streams.push(idle(bench, id).await?);
        if number % 50 == 0 {
            eprintln!("idle streams: {number} of {STREAMS} open");
        }
    }
    tokio::time::sleep(REST).await;
    let grown = kib(bench.pid, "VmRSS")? - before;
    for mut stream in streams {
        stream.stop().await?;
        while !matches!(next(&mut stream).await?, ExecEvent::Exit(_)) {}
        stream.close().await;
    }
    Ok(grown / f64::from(STREAMS))
}

async fn idle(bench: &Bench, id: &str) -> Result<ExecStream> {
    let start = StreamStart { cmd: "sleep".into(), args: vec!["100000".into()], ..StreamStart::default() };
    let mut stream = bench.client.exec_stream(id, start).await?;
    match next(&mut stream).await? {
        ExecEvent::Started { .. } => Ok(stream),
        other => bail!("`sleep` did not start: {other:?}"),
    }
}

async fn next(stream: &mut ExecStream) -> Result<ExecEvent> {
    Ok(timeout(LIMIT, stream.next()).await.context("the stream is silent")??)
}
