//! Starts that meet each other, and what is remembered of processes that have ended. Needs root.

use std::{
    io::{Read, Write},
    time::Duration,
};

use atoll_guest_client::{Code, GuestClient, GuestError, Limits, ProcessEvent, Reason, Selector, StartRequest};
use serde_json::json;

use crate::support::{Agent, eventually, outcome, program, run, shell, started};

/// Starts a program: its pid, and whether it was there before.
async fn begin(client: &GuestClient, start: &StartRequest) -> Result<(u32, bool), GuestError> {
    match client.start(start).await?.next().await? {
        Some(ProcessEvent::Started { pid, known, .. }) => Ok((pid, known)),
        other => panic!("the first event is {other:?}"),
    }
}

#[tokio::test]
async fn of_two_starts_with_one_tag_one_is_refused_while_the_other_lives() {
    let agent = Agent::start();
    let client = agent.client();
    let start = StartRequest { tag: Some("one".into()), ..program("sleep", &["1000"]) };
    for _ in 0..20 {
        let (one, other) = tokio::join!(begin(&client, &start), begin(&client, &start));
        let (pid, refusal) = match (one, other) {
            (Ok((pid, _)), Err(refusal)) | (Err(refusal), Ok((pid, _))) => (pid, refusal),
            both => panic!("{both:?}"),
        };
        assert_eq!((refusal.code(), refusal.reason()), (Some(Code::AlreadyExists), Some(Reason::TagTaken)));
        let mut stream = client.connect(&Selector::Tag("one".into()), 0).await.unwrap();
        client.signal(&Selector::Pid(pid), 9).await.unwrap();
        assert_eq!(outcome(&mut stream).await.unwrap().signal, Some(9));
    }
    let missing = StartRequest { tag: Some("one".into()), ..program("no-such-program", &[]) };
    assert_eq!(begin(&client, &missing).await.unwrap_err().reason(), Some(Reason::ProgramNotFound));
    run(&client, &StartRequest { tag: Some("one".into()), ..program("true", &[]) }).await.unwrap();
}

#[tokio::test]
async fn an_operation_is_carried_out_once() {
    let agent = Agent::start();
    let client = agent.client();
    let proof = agent.path("proof");
    let operation =
        |name: &str, line: &str| StartRequest { operation: Some(name.into()), tag: Some(name.into()), ..shell(line) };
    let once = operation("once", &format!("echo did >> {proof}; read x; exit 7"));
    let once = StartRequest { stdin: true, ..once };
    let starts = (0..8).map(|_| begin(&client, &once));
    let began: Vec<_> =
        futures_util::future::join_all(starts).await.into_iter().collect::<Result<_, GuestError>>().unwrap();
    let pid = began[0].0;
    assert!(began.iter().all(|(other, _)| *other == pid), "{began:?}");
    assert_eq!(began.iter().filter(|(_, known)| !known).count(), 1, "{began:?}");
    client.close_stdin(&Selector::Pid(pid)).await.unwrap();
    let done = outcome(&mut client.connect(&Selector::Pid(pid), 0).await.unwrap()).await.unwrap();
    assert_eq!(done.exit_code, Some(7));
    // It has ended, and is known all the same.
    assert_eq!(begin(&client, &once).await.unwrap(), (pid, true));
    assert_eq!(run(&client, &once).await.unwrap().exit_code, Some(7));
    assert_eq!(std::fs::read_to_string(&proof).unwrap(), "did\n");
    // One that failed may be asked for again.
    let failed = operation("failed", "true");
    let missing = StartRequest { cmd: "no-such-program".into(), ..failed.clone() };
    assert_eq!(begin(&client, &missing).await.unwrap_err().reason(), Some(Reason::ProgramNotFound));
    assert_eq!(run(&client, &failed).await.unwrap().exit_code, Some(0));
    for name in [String::new(), "x".repeat(257)] {
        let bad = StartRequest { operation: Some(name), ..shell("true") };
        assert_eq!(begin(&client, &bad).await.unwrap_err().code(), Some(Code::InvalidArgument));
    }
}

#[tokio::test]
async fn an_end_is_remembered_longer_than_the_output_before_it() {
    const OUTPUT: u64 = 1 << 20;
    let agent = Agent::start();
    let client = agent.client();
    let mut pids = Vec::new();
    for code in 0..12 {
        let start = StartRequest { backpressure: true, ..shell(&format!("head -c {OUTPUT} /dev/zero; exit {code}")) };
        pids.push(run(&client, &start).await.unwrap().pid);
    }
    let mut kept = 0;
    for (code, pid) in (0..12).zip(&pids) {
        let done = outcome(&mut client.connect(&Selector::Pid(*pid), 0).await.unwrap()).await.unwrap();
        assert_eq!(done.exit_code, Some(code));
        assert_eq!(done.stdout.len() as u64 + done.missed, OUTPUT);
        kept += done.stdout.len() as u64;
    }
    assert!((OUTPUT..=8 * OUTPUT).contains(&kept), "{kept} bytes are kept");
    // The first is still known when very many more have ended.
    let batch = "i=0; while [ $i -lt 20 ]; do i=$((i+1)); done; exit 9";
    for _ in 0..20 {
        let runs = (0..20).map(|_| async { run(&client, &shell(batch)).await.unwrap().exit_code });
        assert!(futures_util::future::join_all(runs).await.iter().all(|code| *code == Some(9)));
    }
    let first = outcome(&mut client.connect(&Selector::Pid(pids[1]), 0).await.unwrap()).await.unwrap();
    assert_eq!((first.exit_code, first.missed), (Some(1), OUTPUT));
}

#[tokio::test]
async fn a_plain_reader_that_stalls_slows_nobody_and_loses_nothing_that_fits() {
    const TOTAL: usize = 24_000_000;
    let agent = Agent::start();
    let proof = agent.path("proof");
    let line = format!("head -c {TOTAL} /dev/zero; touch {proof}");
    let message = json!({"process": {"cmd": "/bin/sh", "args": ["-c", line]}, "stdin": false}).to_string();
    let head = format!(
        "POST /process.Process/Start HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Basic cm9vdDo=\r\n\
         Content-Type: application/connect+json\r\nConnect-Protocol-Version: 1\r\nContent-Length: {}\r\n\r\n",
        message.len() + 5
    );
    let mut stream = std::net::TcpStream::connect(&agent.address).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    stream
        .write_all(&[&[0], &u32::try_from(message.len()).unwrap().to_be_bytes()[..], message.as_bytes()].concat())
        .unwrap();
    // It reads nothing, and the process writes all of it.
    eventually("the end of the writer", || std::path::Path::new(&proof).exists()).await;
    let mut answer = Vec::new();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.read_to_end(&mut answer).unwrap();
    let text = String::from_utf8_lossy(&answer);
    // In base64 four letters stand for three bytes, and each piece is filled up for itself.
    let letters: usize =
        text.split("\"stdout\":\"").skip(1).map(|rest| rest.split('"').next().unwrap_or("").len()).sum();
    assert!(letters >= TOTAL / 3 * 4, "{letters} letters of {TOTAL} bytes");
    assert!(text.contains("exit status 0") && !text.contains("resource_exhausted"));
}

#[tokio::test]
async fn input_waits_for_a_process_that_reads_late() {
    let agent = Agent::start();
    // A stream that stands still so long is silent: three times the keepalive.
    let limits = Limits { keepalive: Duration::from_secs(1), idle: Duration::from_secs(600), ..Limits::default() };
    let client = agent.client_with(None, limits);
    let start = StartRequest { stdin: true, ..shell("sleep 6; wc -c") };
    let (mut stream, pid) = started(&client, &start).await;
    let pid = Selector::Pid(pid);
    let mut input = client.open_input(&pid, false).unwrap();
    let sent = 16 << 20;
    input.send(&vec![7; sent]).await.unwrap();
    input.finish().await.unwrap();
    client.close_stdin(&pid).await.unwrap();
    let done = outcome(&mut stream).await.unwrap();
    assert_eq!(String::from_utf8(done.stdout).unwrap().trim(), sent.to_string());
}
