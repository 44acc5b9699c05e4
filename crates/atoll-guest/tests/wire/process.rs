//! Processes through the wire: the real agent, the real client, on this machine.
//! Needs root.

use std::time::Duration;

use crate::support::{Agent, alive, eventually, outcome, program, run, shell, started};
use atoll_guest_client::{Code, GuestError, Limits, ProcessEvent, PtySize, Reason, Selector};
use bytes::Bytes;

#[tokio::test]
async fn output_and_exit_code_come_back() {
    let agent = Agent::start();
    let done = run(&agent.client(), &shell("echo out; echo err >&2; exit 42")).await.unwrap();
    assert_eq!((done.stdout.as_slice(), done.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
    assert_eq!((done.exit_code, done.signal, done.missed), (Some(42), None, 0));
}

#[tokio::test]
async fn a_signal_is_told_apart_from_an_exit() {
    let agent = Agent::start();
    let done = run(&agent.client(), &shell("kill -TERM $$")).await.unwrap();
    assert_eq!((done.exit_code, done.signal), (Some(143), Some(15)));
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let agent = Agent::start();
    let client = agent.client();
    let plain = agent.path("plain");
    std::fs::write(&plain, "no program").unwrap();
    let mut bad_cwd = shell("pwd");
    bad_cwd.cwd = Some("/does/not/exist".into());
    let mut unknown = shell("id");
    unknown.user = Some("nobody-of-that-name".into());
    for (start, code, reason) in [
        (program("no-such-program", &[]), Code::NotFound, Reason::ProgramNotFound),
        (program("/no/such/program", &[]), Code::NotFound, Reason::ProgramNotFound),
        (program(&plain, &[]), Code::PermissionDenied, Reason::NotExecutable),
        (bad_cwd, Code::InvalidArgument, Reason::BadCwd),
        (unknown, Code::Unauthenticated, Reason::UnknownUser),
    ] {
        let error = run(&client, &start).await.unwrap_err();
        assert_eq!((error.code(), error.reason()), (Some(code), Some(reason)), "{error}");
    }
    assert!(client.list().await.unwrap().is_empty(), "no half-started process is left");
}

#[tokio::test]
async fn another_user_has_its_own_environment_and_rights() {
    let agent = Agent::start();
    let mut start = shell("id -un; id -gn; echo $USER $LOGNAME $EXTRA $PATH; cat /etc/shadow; pwd");
    start.user = Some("nobody".into());
    start.envs.insert("EXTRA".into(), "a b".into());
    start.cwd = Some("/usr".into());
    let done = run(&agent.client(), &start).await.unwrap();
    let out = String::from_utf8(done.stdout).unwrap();
    assert_eq!(
        out,
        "nobody\nnogroup\nnobody nobody a b /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n/usr\n"
    );
    assert!(String::from_utf8_lossy(&done.stderr).contains("Permission denied"));
}

#[tokio::test]
async fn the_deadline_kills_the_whole_group() {
    let agent = Agent::start();
    let pidfile = agent.path("pid");
    let mut start = shell(&format!("sleep 1000 & echo $! > {pidfile}; wait"));
    start.timeout = Some(Duration::from_secs(3));
    let error = run(&agent.client(), &start).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::DeadlineExceeded), "{error}");
    let pid = std::fs::read_to_string(pidfile).unwrap();
    eventually("the end of the background child", || !alive(&pid)).await;
}

#[tokio::test]
async fn a_background_child_does_not_hold_the_answer_and_lives_on() {
    let agent = Agent::start();
    let (pidfile, proof) = (agent.path("pid"), agent.path("proof"));
    // The child writes to the inherited pipe after its parent's end was told: a closed
    // pipe would kill it before it writes its proof.
    let line = format!(
        "(while [ ! -e {proof}.go ]; do sleep 0.05; done; echo late; echo ok > {proof}; sleep 1000) & echo $! > {pidfile}; echo now"
    );
    let done = run(&agent.client(), &shell(&line)).await.unwrap();
    assert_eq!((done.stdout.as_slice(), done.exit_code), (&b"now\n"[..], Some(0)));
    let pid = std::fs::read_to_string(pidfile).unwrap();
    assert!(alive(&pid));
    std::fs::write(format!("{proof}.go"), "").unwrap();
    eventually("the proof of the background child", || std::path::Path::new(&proof).exists()).await;
    assert!(alive(&pid));
    run(&agent.client(), &shell(&format!("kill -9 {pid}"))).await.unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_does_not_end_its_process() {
    let agent = Agent::start();
    let client = agent.client();
    let mut start = shell("read line; echo got $line");
    start.tag = Some("mine".into());
    start.stdin = true;
    let (stream, pid) = started(&client, &start).await;
    drop(stream);
    let running = client.list().await.unwrap();
    assert_eq!((running.len(), running[0].pid, running[0].tag.as_deref()), (1, pid, Some("mine")));
    let tag = Selector::Tag("mine".into());
    let mut again = client.connect(&tag, 0).await.unwrap();
    client.send_input(&tag, Bytes::from("x\n"), false).await.unwrap();
    let done = outcome(&mut again).await.unwrap();
    assert_eq!((done.pid, done.stdout.as_slice(), done.exit_code), (pid, &b"got x\n"[..], Some(0)));
    // It is remembered for a while.
    let done = outcome(&mut client.connect(&Selector::Pid(pid), 4).await.unwrap()).await.unwrap();
    assert_eq!((done.stdout.as_slice(), done.exit_code), (&b"x\n"[..], Some(0)));
    let gone = client.signal(&tag, 9).await.unwrap_err();
    assert_eq!(gone.code(), Some(Code::NotFound));
}

#[tokio::test]
async fn closing_stdin_ends_a_reader() {
    let agent = Agent::start();
    let client = agent.client();
    let mut start = program("cat", &[]);
    start.stdin = true;
    let (mut stream, pid) = started(&client, &start).await;
    let pid = Selector::Pid(pid);
    // More than a pipe holds: it must flow while the process reads.
    let large = Bytes::from(vec![b'x'; 300_000]);
    client.send_input(&pid, large.clone(), false).await.unwrap();
    client.close_stdin(&pid).await.unwrap();
    let done = outcome(&mut stream).await.unwrap();
    assert_eq!((done.stdout.len(), done.exit_code), (large.len(), Some(0)));
}

#[tokio::test]
async fn a_signal_reaches_the_whole_group() {
    let agent = Agent::start();
    let client = agent.client();
    let pidfile = agent.path("pid");
    let (mut stream, pid) =
        started(&client, &shell(&format!("sleep 1000 & echo $! > {pidfile}.t; mv {pidfile}.t {pidfile}; wait"))).await;
    eventually("the pid file", || std::path::Path::new(&pidfile).exists()).await;
    client.signal(&Selector::Pid(pid), 15).await.unwrap();
    assert_eq!(outcome(&mut stream).await.unwrap().signal, Some(15));
    let child = std::fs::read_to_string(pidfile).unwrap();
    eventually("the end of the child", || !alive(&child)).await;
    let nonsense = client.signal(&Selector::Pid(pid), 99).await.unwrap_err();
    assert_eq!(nonsense.code(), Some(Code::InvalidArgument));
}

#[tokio::test]
async fn a_terminal_has_a_size_and_can_be_resized() {
    let agent = Agent::start();
    let client = agent.client();
    let mut start = shell("stty size; tty; read x; stty size");
    start.pty = Some(PtySize { cols: 100, rows: 30 });
    let (mut stream, pid) = started(&client, &start).await;
    let pid = Selector::Pid(pid);
    let mut seen = Vec::new();
    while !seen.windows(9).any(|part| part == b"/dev/pts/") {
        match stream.next().await.unwrap() {
            Some(ProcessEvent::Pty(bytes)) => seen.extend(bytes),
            other => panic!("{other:?} after {}", String::from_utf8_lossy(&seen)),
        }
    }
    client.resize(&pid, PtySize { cols: 41, rows: 17 }).await.unwrap();
    client.send_input(&pid, Bytes::from("\n"), true).await.unwrap();
    let done = outcome(&mut stream).await.unwrap();
    seen.extend(done.pty);
    let seen = String::from_utf8_lossy(&seen).into_owned();
    assert!(seen.starts_with("30 100\r\n") && seen.contains("17 41\r\n"), "{seen}");
    assert_eq!(done.exit_code, Some(0));
    // The wrong kind of input is refused, not swallowed.
    let error = client.send_input(&pid, Bytes::from("x"), true).await.unwrap_err();
    assert_eq!(error.code(), Some(Code::NotFound));
}

#[tokio::test]
async fn a_reader_that_asks_for_it_misses_nothing() {
    let agent = Agent::start();
    let mut start = shell("head -c 64000000 /dev/zero");
    start.backpressure = true;
    let done = run(&agent.client(), &start).await.unwrap();
    assert_eq!((done.stdout.len(), done.missed, done.exit_code), (64_000_000, 0, Some(0)));
}

#[tokio::test]
async fn a_stalled_reader_slows_nobody_and_bytes_plus_gaps_are_the_total() {
    const TOTAL: u64 = 100 << 20;
    let agent = Agent::start();
    let client = agent.client();
    let proof = agent.path("proof");
    let (mut stream, pid) =
        started(&client, &shell(&format!("head -c {TOTAL} /dev/zero; touch {proof}; read x"))).await;
    // Nobody reads; the process writes everything all the same.
    eventually("the end of the writer", || std::path::Path::new(&proof).exists()).await;
    let mut end = client.connect(&Selector::Pid(pid), TOTAL).await.unwrap();
    let late = outcome(&mut end).await.unwrap();
    assert_eq!((late.stdout.len(), late.missed, late.exit_code), (0, 0, Some(1)));
    let done = outcome(&mut stream).await.unwrap();
    assert_eq!(done.stdout.len() as u64 + done.missed, TOTAL);
    assert!(done.missed > 0, "it was never behind");
    assert!(done.stdout.len() >= 1 << 20, "the last MiB is kept");
    assert!(agent.resident() < 64 << 20, "{} bytes", agent.resident());
}

#[tokio::test]
async fn the_last_mebibyte_survives_a_reconnect() {
    let agent = Agent::start();
    let client = agent.client();
    let line = "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done";
    let (mut stream, pid) = started(&client, &shell(line)).await;
    let mut seen = Vec::new();
    while seen.len() < 50_000 {
        if let Some(ProcessEvent::Stdout(bytes)) = stream.next().await.unwrap() {
            seen.extend(bytes);
        }
    }
    drop(stream);
    let mut again = client.connect(&Selector::Pid(pid), seen.len() as u64).await.unwrap();
    let rest = outcome(&mut again).await.unwrap();
    seen.extend(rest.stdout);
    let wanted: String = (0..20_000).map(|i| format!("line {i}\n")).collect();
    assert_eq!(rest.missed, 0);
    assert!(seen == wanted.as_bytes(), "{} of {} bytes", seen.len(), wanted.len());
}

#[tokio::test]
async fn silence_is_filled_with_keepalives() {
    let agent = Agent::start();
    let limits = Limits { keepalive: Duration::from_secs(1), ..Limits::default() };
    let client = agent.client_with(None, limits);
    let (mut stream, pid) = started(&client, &program("sleep", &["1000"])).await;
    assert_eq!(stream.next().await.unwrap(), Some(ProcessEvent::Keepalive));
    client.signal(&Selector::Pid(pid), 9).await.unwrap();
    assert_eq!(outcome(&mut stream).await.unwrap().signal, Some(9));
}

#[tokio::test]
async fn sixty_processes_at_once_end_as_they_should() {
    let agent = Agent::start();
    let client = agent.client();
    let runs = (0..60).map(|i| {
        let client = client.clone();
        tokio::spawn(async move { run(&client, &shell(&format!("echo {i}; exit {i}"))).await })
    });
    for (i, done) in futures_util::future::join_all(runs).await.into_iter().enumerate() {
        let done = done.unwrap().unwrap();
        assert_eq!(done.exit_code, Some(i32::try_from(i).unwrap()));
        assert_eq!(done.stdout, format!("{i}\n").into_bytes());
    }
}

#[tokio::test]
async fn a_dead_agent_is_an_error_and_not_a_wait() {
    let agent = Agent::start();
    let client = agent.client();
    let (mut stream, pid) = started(&client, &program("sleep", &["1000"])).await;
    run(&client, &shell(&format!("kill -9 {pid}"))).await.unwrap();
    outcome(&mut stream).await.unwrap();
    let (mut stream, pid) = started(&client, &program("sleep", &["1000"])).await;
    drop(agent);
    let error = outcome(&mut stream).await.unwrap_err();
    assert!(matches!(error, GuestError::Protocol(_)), "{error}");
    assert!(matches!(client.list().await, Err(GuestError::Dial(_))));
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap()), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
}
