//! How long a key takes to come back from a terminal.
//!
//! How it works: `cat` on a terminal in either VM; one byte is sent, its echo awaited, in turns.
//!
//! Deliberately absent: windows that are resized, and more than one byte.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use atoll_api::PtyStart;
use atoll_client::{Terminal, TerminalEvent};
use atoll_guest_client::{GuestClient, ProcessEvent, ProcessStream, PtySize, Selector, StartRequest};
use bytes::Bytes;
use tokio::time::timeout;

use crate::{Bench, Series};

const LIMIT: Duration = Duration::from_secs(20);

/// Takes the samples.
pub(crate) async fn measure(bench: &Bench, id: &str, agent: &GuestClient) -> Result<Series> {
    let mut series = Series::new("echo of a key on a terminal, ms");
    let mut terminal = bench.client.terminal(id, PtyStart { cmd: "/bin/cat".into(), ..PtyStart::default() }).await?;
    while !matches!(next(&mut terminal).await?, TerminalEvent::Started { .. }) {}
    let start = StartRequest {
        cmd: "/bin/cat".into(),
        user: Some("root".into()),
        stdin: true,
        pty: Some(PtySize { cols: 80, rows: 24 }),
        ..StartRequest::default()
    };
    let mut process = agent.start(&start).await?;
    let pid = loop {
        match timeout(LIMIT, process.next()).await?? {
            Some(ProcessEvent::Started { pid, .. }) => break pid,
            Some(_) => {}
            None => bail!("cat did not start"),
        }
    };
    for turn in 0..bench.pairs * 4 + 5 {
        let atoll = through_atoll(&mut terminal).await?;
        let bare = direct(agent, &mut process, pid).await?;
        // The first ones translate code.
        if turn >= 5 {
            series.atoll.push(atoll);
            series.bare.push(bare);
        }
        if turn % 50 == 0 {
            eprintln!("keys: {turn} of {}", bench.pairs * 4);
        }
    }
    agent.signal(&Selector::Pid(pid), 9).await?;
    terminal.close().await;
    Ok(series)
}

async fn next(terminal: &mut Terminal) -> Result<TerminalEvent> {
    Ok(timeout(LIMIT, terminal.next()).await.context("the terminal is silent")??)
}

async fn through_atoll(terminal: &mut Terminal) -> Result<f64> {
    let started = Instant::now();
    terminal.input(Bytes::from_static(b"x")).await?;
    while !matches!(next(terminal).await?, TerminalEvent::Output(_)) {}
    Ok(started.elapsed().as_secs_f64() * 1000.0)
}

async fn direct(agent: &GuestClient, process: &mut ProcessStream, pid: u32) -> Result<f64> {
    let started = Instant::now();
    agent.send_input(&Selector::Pid(pid), Bytes::from_static(b"x"), true).await?;
    loop {
        match timeout(LIMIT, process.next()).await.context("the terminal is silent")?? {
            Some(ProcessEvent::Pty(_)) => return Ok(started.elapsed().as_secs_f64() * 1000.0),
            Some(_) => {}
            None => bail!("cat ended"),
        }
    }
}
