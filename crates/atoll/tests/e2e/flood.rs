//! A guest that prints without end, wherever it can: nobody pays for it with memory.

use atoll_api::PtyStart;
use atoll_client::{ExecEvent, TerminalEvent};
use atoll_testkit::eventually;

use crate::guest::Guest;

/// Far above what rings and buffers hold, far below what is printed.
const GROWTH: u64 = 48 << 20;
/// What must have come before memory is looked at.
const PRINTED: u64 = 96 << 20;

/// Resident memory of a process, in bytes.
fn resident(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[tokio::test]
async fn a_guest_that_prints_without_end_costs_bounded_memory() {
    let guest = Guest::new().await;
    let facts = guest.server.local().sandbox(guest.id()).await.unwrap().host.unwrap();
    let (atoll, keeper) = (guest.server.pid(), facts.keeper_pid.unwrap());
    let agent = "ps -C init,atoll-guest -o rss= | sort -n | tail -1";
    let agent_before: u64 = guest.sh(agent).await.trim().parse().unwrap();
    let before = (resident(atoll), resident(keeper));
    let flood = |line: &str| atoll_api::StreamStart {
        cmd: "bash".into(),
        args: vec!["-c".into(), line.into()],
        ..atoll_api::StreamStart::default()
    };
    // Read as it comes, from standard output and standard error, while nobody reads a third one.
    let mut stalled = guest.client.exec_stream(guest.id(), flood("cat /dev/zero")).await.unwrap();
    let line = "cat /dev/zero & cat /dev/zero >&2 & (while :; do head -c 65536 /dev/zero | tr '\\0' x; echo; done) \
        > /dev/console & wait";
    let mut read = guest.client.exec_stream(guest.id(), flood(line)).await.unwrap();
    let start = PtyStart { cmd: "cat".into(), args: vec!["/dev/zero".into()], ..PtyStart::default() };
    let mut terminal = guest.client.terminal(guest.id(), start).await.unwrap();
    let (mut came, mut shown) = (0, 0);
    while came < PRINTED || shown == 0 {
        tokio::select! {
            event = read.next() => match event.unwrap() {
                ExecEvent::Stdout(bytes) | ExecEvent::Stderr(bytes) => came += bytes.len() as u64,
                ExecEvent::Gap(bytes) => came += bytes,
                ExecEvent::Started { .. } => {}
                other => panic!("{other:?}"),
            },
            event = terminal.next() => match event.unwrap() {
                TerminalEvent::Output(bytes) => shown += bytes.len() as u64,
                TerminalEvent::Gap(bytes) => shown += bytes,
                TerminalEvent::Started { .. } => {}
                other => panic!("{other:?}"),
            },
        }
    }
    let after = (resident(atoll), resident(keeper));
    println!("{came} bytes of streams, {shown} of a terminal; Atoll {before:?} -> {after:?} (Atoll, keeper)");
    assert!(after.0.saturating_sub(before.0) < GROWTH, "Atoll: {before:?} -> {after:?}");
    assert!(after.1.saturating_sub(before.1) < GROWTH, "keeper: {before:?} -> {after:?}");
    // Everything still answers, while it goes on.
    assert_eq!(guest.sh("echo here").await, "here");
    let printed = || async {
        let console = guest.client.logs(guest.id(), "console").await.unwrap();
        assert!(console.len() <= 260 << 10, "{} bytes of console", console.len());
        String::from_utf8_lossy(&console).contains("xxxxxxxx").then_some(())
    };
    eventually("the console to show what it printed", printed).await;
    let agent_after: u64 = guest.sh(agent).await.trim().parse().unwrap();
    println!("agent: {agent_before} kB -> {agent_after} kB");
    assert!(agent_after.saturating_sub(agent_before) * 1024 < GROWTH, "agent: {agent_before} -> {agent_after} kB");
    stalled.stop().await.unwrap();
    read.stop().await.unwrap();
    guest.end().await;
}
