//! Streams of input, terminals that are left and found again, watches: through the real
//! client. Needs root.

use std::time::Duration;

use atoll_guest_client::{
    ChangeKind, Code, GuestError, InitRequest, Limits, ProcessEvent, ProcessStream, PtySize, Selector, WatchEvent,
    WatchStream,
};

use sha2::Digest;

use crate::support::{Agent, TOKEN, init, outcome, program, shell, started};

/// Reads terminal output until it holds a text; gives all of it.
async fn read_until(stream: &mut ProcessStream, wanted: &str) -> String {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(wanted) {
        match stream.next().await.unwrap() {
            Some(ProcessEvent::Pty(bytes) | ProcessEvent::Stdout(bytes)) => seen.extend(bytes),
            Some(ProcessEvent::Started { .. } | ProcessEvent::Keepalive) => {}
            other => panic!("{other:?} after {}", String::from_utf8_lossy(&seen)),
        }
    }
    String::from_utf8_lossy(&seen).into_owned()
}

#[tokio::test]
async fn a_stream_of_input_arrives_whole_and_in_order() {
    let agent = Agent::start();
    let client = agent.client();
    let mut start = program("sha256sum", &[]);
    start.stdin = true;
    let (mut stream, pid) = started(&client, &start).await;
    let pid = Selector::Pid(pid);
    let mut input = client.open_input(&pid, false).unwrap();
    let piece: Vec<u8> = (0..100_003_u32).map(|i| (i % 251) as u8).collect();
    for _ in 0..50 {
        input.send(&piece).await.unwrap();
    }
    input.finish().await.unwrap();
    client.close_stdin(&pid).await.unwrap();
    let done = outcome(&mut stream).await.unwrap();
    let wanted: String = sha2::Sha256::digest(piece.repeat(50)).iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(String::from_utf8_lossy(&done.stdout).starts_with(&wanted));
}

#[tokio::test]
async fn input_that_a_process_does_not_take_waits_without_memory() {
    let agent = Agent::start();
    let client = agent.client();
    let mut start = program("sleep", &["1000"]);
    start.stdin = true;
    let (mut stream, pid) = started(&client, &start).await;
    let pid = Selector::Pid(pid);
    let before = agent.resident();
    let mut input = client.open_input(&pid, false).unwrap();
    let flood = async {
        loop {
            input.send(&vec![7; 64 * 1024]).await?;
        }
    };
    let flooded: Result<Result<(), GuestError>, _> = tokio::time::timeout(Duration::from_secs(2), flood).await;
    assert!(flooded.is_err(), "nobody reads, and yet it ended: {flooded:?}");
    let grown = agent.resident().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes more");
    // Its end is told to the sender too.
    client.signal(&pid, 9).await.unwrap();
    assert_eq!(outcome(&mut stream).await.unwrap().signal, Some(9));
    let error = input.finish().await.unwrap_err();
    assert!(matches!(error, GuestError::Rejected { .. } | GuestError::Protocol(_)), "{error}");
}

#[tokio::test]
async fn input_for_a_process_that_reads_late_arrives_whole() {
    let agent = Agent::start();
    let client = agent.client();
    let mark = agent.path("read-now");
    let mut start = shell(&format!("until [ -e {mark} ]; do sleep 0.02; done; exec sha256sum"));
    start.stdin = true;
    let (mut stream, pid) = started(&client, &start).await;
    // Far less than it is waited for below: what the agent says must be heard so often, what a process takes need not.
    let limits = Limits { keepalive: Duration::from_millis(100), idle: Duration::from_hours(1), ..Limits::default() };
    let mut input = agent.client_with(None, limits).open_input(&Selector::Pid(pid), false).unwrap();
    let piece: Vec<u8> = (0..1_000_003_u32).map(|i| (i % 251) as u8).collect();
    let all = piece.repeat(16);
    {
        let mut sending = std::pin::pin!(input.send(&all));
        let early = tokio::time::timeout(Duration::from_secs(1), &mut sending).await;
        assert!(early.is_err(), "nobody reads, and yet it ended: {early:?}");
        std::fs::write(&mark, "").unwrap();
        sending.await.unwrap();
    }
    input.finish().await.unwrap();
    client.close_stdin(&Selector::Pid(pid)).await.unwrap();
    let done = outcome(&mut stream).await.unwrap();
    let wanted: String = sha2::Sha256::digest(&all).iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(String::from_utf8_lossy(&done.stdout).starts_with(&wanted));
}

#[tokio::test]
async fn input_for_nobody_is_refused() {
    let agent = Agent::start();
    let client = agent.client();
    let input = client.open_input(&Selector::Tag("nobody".into()), false).unwrap();
    assert_eq!(input.finish().await.unwrap_err().code(), Some(Code::NotFound));
    let (_stream, pid) = started(&client, &program("sleep", &["1000"])).await;
    let mut input = client.open_input(&Selector::Pid(pid), true).unwrap();
    // It has no terminal. The refusal may come with this piece or with the end.
    let _ = input.send(b"x").await;
    assert_eq!(input.finish().await.unwrap_err().code(), Some(Code::FailedPrecondition));
    client.signal(&Selector::Pid(pid), 9).await.unwrap();
}

#[tokio::test]
async fn a_terminal_is_found_again_where_it_was_left() {
    let agent = Agent::start();
    let client = agent.client();
    let mut start = program("/bin/sh", &["-i"]);
    start.pty = Some(PtySize { cols: 80, rows: 24 });
    start.tag = Some("term".into());
    start.envs.insert("PS1".into(), "ready> ".into());
    start.envs.insert("LAB".into(), "el".into());
    let tag = Selector::Tag("term".into());
    let (mut stream, _) = started(&client, &start).await;
    read_until(&mut stream, "ready> ").await;
    let mut input = client.open_input(&tag, true).unwrap();
    input.send(b"echo one-$LAB\n").await.unwrap();
    read_until(&mut stream, "one-el").await;
    let left = stream.offset();
    drop(stream);
    input.send(b"echo two-$LAB; stty size\n").await.unwrap();
    let mut again = client.connect(&tag, left).await.unwrap();
    let seen = read_until(&mut again, "24 80").await;
    assert!(seen.contains("two-el") && !seen.contains("one-el"), "{seen}");
    client.resize(&tag, PtySize { cols: 132, rows: 43 }).await.unwrap();
    input.send(b"stty size; exit 3\n").await.unwrap();
    read_until(&mut again, "43 132").await;
    assert_eq!(outcome(&mut again).await.unwrap().exit_code, Some(3));
}

#[tokio::test]
async fn ctrl_c_reaches_the_program_in_front() {
    let agent = Agent::start();
    let client = agent.client();
    // A signal that comes between a shell's look for one and its next program strikes nobody: so it looks again and again.
    let mut start =
        program("/bin/sh", &["-c", "trap 'echo caught; exit 7' INT; echo set; while :; do sleep 0.05; done"]);
    start.pty = Some(PtySize { cols: 80, rows: 24 });
    let (mut stream, pid) = started(&client, &start).await;
    read_until(&mut stream, "set").await;
    client.send_input(&Selector::Pid(pid), "\u{3}".into(), true).await.unwrap();
    let done = outcome(&mut stream).await.unwrap();
    assert_eq!(done.exit_code, Some(7), "{}", String::from_utf8_lossy(&done.pty));
}

#[tokio::test]
async fn both_streams_count_into_one_offset() {
    let agent = Agent::start();
    let client = agent.client();
    let line = "for i in 1 2 3 4 5 6 7 8 9; do echo out$i; echo error$i >&2; done; read x";
    let mut start = shell(line);
    start.stdin = true;
    let (mut stream, pid) = started(&client, &start).await;
    let total = 9 * (5 + 7);
    let mut pieces = Vec::new();
    while stream.offset() < total {
        pieces.push(stream.next().await.unwrap().unwrap());
    }
    // Whoever comes back at any offset gets exactly the rest.
    for offset in 0..=total {
        let mut again = client.connect(&Selector::Pid(pid), offset).await.unwrap();
        assert!(matches!(again.next().await.unwrap(), Some(ProcessEvent::Started { offset: at, .. }) if at == offset));
        while again.offset() < total {
            assert!(!matches!(again.next().await.unwrap(), Some(ProcessEvent::Gap { .. })));
        }
        assert_eq!(again.offset(), total);
    }
    client.signal(&Selector::Pid(pid), 9).await.unwrap();
}

#[tokio::test]
async fn how_much_output_is_kept_is_the_hosts_to_say() {
    let agent = Agent::start();
    let small = InitRequest { output_bytes: Some(100_000), ..init() };
    agent.client().init(&small).await.unwrap();
    let client = agent.client_with(Some(TOKEN), Limits::default());
    let (stream, pid) = started(&client, &shell("head -c 1000000 /dev/zero")).await;
    drop(stream);
    let mut late = client.connect(&Selector::Pid(pid), 0).await.unwrap();
    while late.next().await.unwrap().is_some() {}
    let done = outcome(&mut client.connect(&Selector::Pid(pid), 0).await.unwrap()).await.unwrap();
    assert_eq!(done.stdout.len() as u64 + done.missed, 1_000_000);
    assert!((100_000..200_000).contains(&done.stdout.len()), "{} bytes are kept", done.stdout.len());
}

async fn change(watch: &mut WatchStream) -> (String, ChangeKind) {
    loop {
        match watch.next().await.unwrap() {
            Some(WatchEvent::Changed(change)) => return (change.name, change.kind),
            Some(WatchEvent::Keepalive) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_watch_streams_what_happens() {
    let agent = Agent::start();
    let client = agent.client();
    let path = agent.dir.path().display().to_string();
    let mut watch = client.watch_dir(&path, true, Some("root")).await.unwrap();
    assert_eq!(watch.next().await.unwrap(), Some(WatchEvent::Started));
    let body = atoll_guest_client::FileBody::bytes("x");
    client.write_file(&agent.path("sub/new"), Some("root"), body).await.unwrap();
    assert_eq!(change(&mut watch).await, ("sub".into(), ChangeKind::Create));
    let mut kinds = Vec::new();
    while kinds.last() != Some(&ChangeKind::Write) {
        let (name, kind) = change(&mut watch).await;
        if name == "sub/new" {
            kinds.push(kind);
        }
    }
    assert_eq!(kinds[0], ChangeKind::Create);
    client.remove(&agent.path("sub"), Some("root")).await.unwrap();
    loop {
        if change(&mut watch).await == ("sub".into(), ChangeKind::Remove) {
            break;
        }
    }
    let watcher = client.create_watcher(&path, false, Some("root")).await.unwrap();
    assert!(client.watcher_events(&watcher).await.unwrap().is_empty());
    client.remove_watcher(&watcher).await.unwrap();
    assert_eq!(client.watcher_events(&watcher).await.unwrap_err().code(), Some(Code::NotFound));
}
