//! Programs and terminals that are followed: nothing is lost, nothing is slowed down, `stop` kills and a lost connection does not.

use atoll_api::{PtyStart, StreamStart};
use atoll_client::{ExecEvent, ExecStream, Terminal, TerminalEvent};
use atoll_testkit::{eventually, within};
use bytes::Bytes;

use crate::guest::{Guest, PATIENCE};

fn shell(line: &str, tag: Option<&str>, stdin: bool) -> StreamStart {
    StreamStart {
        cmd: "bash".into(),
        args: vec!["-c".into(), line.into()],
        tag: tag.map(str::to_owned),
        timeout_sec: Some(PATIENCE * 5),
        stdin,
        ..Default::default()
    }
}

async fn next(stream: &mut ExecStream) -> ExecEvent {
    within("an event of a stream", stream.next()).await.unwrap()
}

/// Everything to its end: standard output, standard error, bytes that were not kept, exit code.
async fn drain(stream: &mut ExecStream) -> (Vec<u8>, Vec<u8>, u64, i32) {
    let (mut out, mut err, mut gaps) = (Vec::new(), Vec::new(), 0);
    loop {
        match next(stream).await {
            ExecEvent::Started { .. } => {}
            ExecEvent::Stdout(bytes) => out.extend_from_slice(&bytes),
            ExecEvent::Stderr(bytes) => err.extend_from_slice(&bytes),
            ExecEvent::Gap(bytes) => gaps += bytes,
            ExecEvent::Exit(code) => return (out, err, gaps, code),
            ExecEvent::Error(error) => panic!("{error:?}"),
        }
    }
}

#[tokio::test]
async fn output_input_and_exit_code_come_over_one_stream() {
    let guest = Guest::new().await;
    let line = "echo err >&2; printf '\\xff\\x00\\xfe'; head -c 4; cat; exit 6";
    let mut stream = guest.client.exec_stream(guest.id(), shell(line, None, true)).await.unwrap();
    assert!(matches!(next(&mut stream).await, ExecEvent::Started { pid, .. } if pid > 1));
    let input: Vec<u8> = (0..300_000_u32).flat_map(|n| n.to_be_bytes()).collect();
    stream.input(&input).await.unwrap();
    stream.close_input().await.unwrap();
    let (out, err, gaps, code) = drain(&mut stream).await;
    assert_eq!((err.as_slice(), gaps, code), (&b"err\n"[..], 0, 6));
    assert!(out == [&b"\xff\0\xfe"[..], &input].concat(), "{} bytes came back", out.len());
    guest.end().await;
}

#[tokio::test]
async fn stop_kills_the_group_and_a_lost_connection_kills_nothing() {
    let guest = Guest::new().await;
    let line = "trap '' TERM HUP; sleep 4000 & sleep 4001 & echo ready; wait";
    let mut stream = guest.client.exec_stream(guest.id(), shell(line, Some("stopped"), false)).await.unwrap();
    while !matches!(next(&mut stream).await, ExecEvent::Stdout(_)) {}
    stream.stop().await.unwrap();
    let (_, _, _, code) = drain(&mut stream).await;
    assert_eq!(code, 137);
    let none = "for i in $(seq 600); do pgrep -x sleep >/dev/null || { echo none; exit; }; sleep 0.05; done";
    assert_eq!(guest.sh(none).await, "none");

    let line =
        "for n in $(seq 1 2000); do echo line $n; done; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo last; exit 4";
    let mut stream = guest.client.exec_stream(guest.id(), shell(line, Some("lost"), false)).await.unwrap();
    let mut out = Vec::new();
    while out.is_empty() {
        if let ExecEvent::Stdout(bytes) = next(&mut stream).await {
            out.extend_from_slice(&bytes);
        }
    }
    let offset = stream.offset();
    drop(stream);
    let listed = guest.client.processes(guest.id()).await.unwrap().processes;
    assert!(listed.iter().any(|process| process.tag.as_deref() == Some("lost")), "{listed:?}");
    let mut again = guest.client.exec_reattach(guest.id(), "lost", offset).await.unwrap();
    guest.sh("touch /tmp/go").await;
    let (rest, _, gaps, code) = drain(&mut again).await;
    out.extend(rest);
    let wanted = (1..=2000).map(|n| format!("line {n}\n")).collect::<String>() + "last\n";
    assert_eq!((gaps, code), (0, 4));
    assert!(out == wanted.as_bytes(), "not every byte came, and once");
    guest.end().await;
}

#[tokio::test]
async fn a_reader_that_stalls_slows_nothing_and_what_it_missed_is_counted() {
    let guest = Guest::new().await;
    let total: u64 = 100 << 20;
    let line = format!("head -c {total} /dev/zero; touch /tmp/written; exit 0");
    let mut stream = guest.client.exec_stream(guest.id(), shell(&line, None, false)).await.unwrap();
    assert!(matches!(next(&mut stream).await, ExecEvent::Started { .. }));
    // Nobody reads, and the program comes to its end all the same.
    guest.sh("for i in $(seq 1000); do [ -e /tmp/written ] && exit; sleep 0.1; done; exit 1").await;
    let (out, _, gaps, code) = drain(&mut stream).await;
    assert_eq!((out.len() as u64 + gaps, code), (total, 0));
    assert!(gaps > 0 && out.iter().all(|byte| *byte == 0));
    guest.end().await;
}

#[tokio::test]
async fn whoever_stands_still_for_minutes_loses_neither_output_nor_input() {
    // Longer than any limit of a connection on the way; it is the programs that wait.
    const STILL: u32 = 140;
    let guest = Guest::new().await;
    let total: u64 = 100 << 20;
    let line = format!("head -c {total} /dev/zero; sleep {STILL}; echo last; exit 5");
    let mut reader = guest.client.exec_stream(guest.id(), shell(&line, None, false)).await.unwrap();
    assert!(matches!(next(&mut reader).await, ExecEvent::Started { .. }));
    let line = format!("sleep {STILL}; wc -c");
    let mut feeder = guest.client.exec_stream(guest.id(), shell(&line, None, true)).await.unwrap();
    assert!(matches!(next(&mut feeder).await, ExecEvent::Started { .. }));
    // More than all buffers on the way hold.
    let input = vec![7; 32 << 20];
    feeder.input(&input).await.unwrap();
    feeder.close_input().await.unwrap();
    let (out, _, gaps, code) = drain(&mut feeder).await;
    assert_eq!((String::from_utf8_lossy(&out).trim(), gaps, code), (input.len().to_string().as_str(), 0, 0));
    let (out, _, gaps, code) = drain(&mut reader).await;
    assert_eq!((out.len() as u64 + gaps, code), (total + 5, 5));
    assert!(out.ends_with(b"last\n"));
    guest.end().await;
}

#[tokio::test]
async fn processes_are_listed_and_killed_by_pid_and_tag() {
    let guest = Guest::new().await;
    let mut stream = guest.client.exec_stream(guest.id(), shell("exec sleep 7000", Some("nap"), false)).await.unwrap();
    let ExecEvent::Started { pid, tag } = next(&mut stream).await else { panic!("no start") };
    assert_eq!(tag.as_deref(), Some("nap"));
    let listed = guest.client.processes(guest.id()).await.unwrap().processes;
    let found = listed.iter().find(|process| process.pid == pid).unwrap();
    assert_eq!((found.tag.as_deref(), found.cmd.as_str()), (Some("nap"), "bash"));
    guest.client.signal(guest.id(), "nap", "SIGTERM").await.unwrap();
    assert_eq!(drain(&mut stream).await.3, 143);
    let gone = guest.client.signal(guest.id(), "nap", "SIGTERM").await.unwrap_err();
    assert_eq!(gone.code(), Some(atoll_api::ErrorCode::NotFound), "{gone:?}");
    let none = || async { guest.client.processes(guest.id()).await.unwrap().processes.is_empty().then_some(()) };
    eventually("the list to be empty", none).await;
    guest.end().await;
}

/// Reads a terminal until its output holds a text.
async fn until(terminal: &mut Terminal, seen: &mut String, text: &str) {
    while !seen.contains(text) {
        match within("a terminal's output", terminal.next()).await.unwrap() {
            TerminalEvent::Output(bytes) => seen.push_str(&String::from_utf8_lossy(&bytes)),
            TerminalEvent::Started { .. } => {}
            other => panic!("{other:?} instead of `{text}` after {seen}"),
        }
    }
}

#[tokio::test]
async fn a_terminal_echoes_resizes_and_is_come_back_to() {
    let guest = Guest::new().await;
    let start = PtyStart { cmd: "bash".into(), args: vec!["--norc".into()], cols: 80, rows: 24, ..Default::default() };
    let mut terminal = guest.client.terminal(guest.id(), start).await.unwrap();
    let first = within("the start", terminal.next()).await.unwrap();
    let TerminalEvent::Started { tag } = first else { panic!("{first:?}") };
    let mut seen = String::new();
    terminal.input(Bytes::from_static(b"stty size; tty; echo $((40 + 2))\n")).await.unwrap();
    until(&mut terminal, &mut seen, "24 80").await;
    until(&mut terminal, &mut seen, "/dev/pts/").await;
    until(&mut terminal, &mut seen, "42").await;
    terminal.resize(132, 43).await.unwrap();
    terminal.input(Bytes::from_static(b"stty size\n")).await.unwrap();
    until(&mut terminal, &mut seen, "43 132").await;
    // Said by the one that shall be interrupted: the shell itself is not yet waiting when it says something.
    terminal.input(Bytes::from_static(b"sh -c 'echo waiting-$((1 + 1)); exec sleep 9000'\n")).await.unwrap();
    until(&mut terminal, &mut seen, "waiting-2").await;
    terminal.input(Bytes::from_static(b"\x03")).await.unwrap();
    terminal.input(Bytes::from_static(b"echo inter''rupted; cd /usr; marker=kept\n")).await.unwrap();
    until(&mut terminal, &mut seen, "interrupted").await;
    let offset = terminal.offset();
    drop(terminal);
    let mut again = guest.client.terminal_reattach(guest.id(), &tag, offset).await.unwrap();
    let mut seen = String::new();
    again.input(Bytes::from_static(b"echo [$marker] $PWD; exit 5\n")).await.unwrap();
    until(&mut again, &mut seen, "[kept] /usr").await;
    loop {
        match within("the end of the terminal", again.next()).await.unwrap() {
            TerminalEvent::Exit(code) => break assert_eq!(code, 5),
            TerminalEvent::Output(_) => {}
            other => panic!("{other:?}"),
        }
    }
    guest.end().await;
}
