//! Commands over WebSockets: what is said, what is lost, who is let in.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Service, Socket, eventually};

pub(crate) fn shell(line: &str) -> Value {
    json!({ "type": "start", "cmd": "/bin/sh", "args": ["-c", line] })
}

/// The bytes of a frame.
pub(crate) fn bytes(frame: &Value) -> Vec<u8> {
    let data = frame["data"].as_str().unwrap();
    if frame["encoding"] == "base64" { STANDARD.decode(data).unwrap() } else { data.as_bytes().to_vec() }
}

pub(crate) async fn begin(service: &Service, id: &str, start: Value) -> (Socket, Value) {
    let mut socket = service.socket(&format!("/v1/sandboxes/{id}/exec/stream")).await;
    socket.send(start).await;
    let started = socket.frame().await;
    assert_eq!(started["type"], "start", "{started}");
    (socket, started)
}

async fn nothing_runs(service: &Service, id: &str) -> bool {
    service.get(&format!("/v1/sandboxes/{id}/processes")).await.json()["processes"] == json!([])
}

#[tokio::test]
async fn output_comes_as_it_is_written_and_the_exit_last() {
    let (service, id) = Service::with_sandbox().await;
    let (mut socket, started) = begin(&service, &id, shell("echo out; echo err >&2; exit 5")).await;
    assert!(started["pid"].as_u64().is_some_and(|pid| pid > 1), "{started}");
    let frames = socket.rest().await;
    let of = |kind: &str| -> Vec<u8> { frames.iter().filter(|f| f["type"] == kind).flat_map(bytes).collect() };
    assert_eq!((of("stdout"), of("stderr")), (b"out\n".to_vec(), b"err\n".to_vec()));
    assert_eq!(frames.last(), Some(&json!({ "type": "exit", "exit_code": 5 })));
}

#[tokio::test]
async fn binary_output_is_not_damaged() {
    let (service, id) = Service::with_sandbox().await;
    let line = r"printf 'na\303'; sleep 0.2; printf '\257ve'; sleep 0.2; printf '\377\000\376'";
    let (mut socket, _) = begin(&service, &id, shell(line)).await;
    let frames: Vec<_> = socket.rest().await.into_iter().filter(|frame| frame["type"] == "stdout").collect();
    let all: Vec<u8> = frames.iter().flat_map(bytes).collect();
    assert_eq!(all, b"na\xc3\xafve\xff\x00\xfe");
    assert!(frames.iter().any(|frame| frame["encoding"] == "base64"), "{frames:?}");
    let mut at = 0;
    for frame in &frames {
        assert_eq!(frame["offset"], at, "{frames:?}");
        at += bytes(frame).len();
    }
}

#[tokio::test]
async fn stop_kills_with_the_whole_group() {
    let (service, id) = Service::with_sandbox().await;
    let (mut socket, _) = begin(&service, &id, shell("sleep 1000 & echo up; wait")).await;
    assert_eq!(bytes(&socket.frame().await), b"up\n");
    socket.send(json!({ "type": "stop" })).await;
    let frames = socket.rest().await;
    assert_eq!(frames.last(), Some(&json!({ "type": "exit", "exit_code": 137, "signal": 9 })));
    eventually("nothing runs", async || nothing_runs(&service, &id).await).await;
}

#[tokio::test]
async fn a_lost_connection_leaves_the_process_and_its_reader_comes_back() {
    let (service, id) = Service::with_sandbox().await;
    let go = service.dir.path().join("go");
    let line = format!("echo first; while [ ! -e {} ]; do sleep 0.05; done; echo second", go.display());
    let mut start = shell(&line);
    start["tag"] = json!("long");
    let (mut socket, _) = begin(&service, &id, start).await;
    assert_eq!(bytes(&socket.frame().await), b"first\n");
    drop(socket);
    let mut again = service.socket(&format!("/v1/sandboxes/{id}/exec/stream?tag=long&offset=6")).await;
    let started = again.frame().await;
    assert_eq!((&started["type"], &started["offset"], &started["tag"]), (&json!("start"), &json!(6), &json!("long")));
    std::fs::write(&go, "").unwrap();
    let frames = again.rest().await;
    assert_eq!(frames[0], json!({ "type": "stdout", "data": "second\n", "offset": 6 }));
    assert_eq!(frames.last(), Some(&json!({ "type": "exit", "exit_code": 0 })));
    let mut all = service.socket(&format!("/v1/sandboxes/{id}/processes/long/stream")).await;
    let frames = all.rest().await;
    let text: Vec<u8> = frames.iter().filter(|frame| frame["type"] == "stdout").flat_map(bytes).collect();
    assert_eq!(text, b"first\nsecond\n", "{frames:?}");
}

#[tokio::test]
async fn a_reader_that_stalls_slows_nobody_and_hears_of_every_byte() {
    let (service, id) = Service::with_sandbox().await;
    let mark = service.dir.path().join("written");
    let line = format!("head -c 104857600 /dev/zero | tr '\\0' x; touch {}", mark.display());
    let (mut socket, _) = begin(&service, &id, shell(&line)).await;
    eventually("it wrote all of it while nobody read", async || mark.exists()).await;
    let (mut heard, mut lost) = (0, 0);
    for frame in socket.rest().await {
        match frame["type"].as_str().unwrap() {
            "stdout" => {
                assert_eq!(frame["offset"], heard + lost);
                heard += bytes(&frame).len() as u64;
            }
            "gap" => lost += frame["bytes"].as_u64().unwrap(),
            other => assert_eq!(other, "exit", "{frame}"),
        }
    }
    assert_eq!(heard + lost, 100 << 20);
    assert!(lost > 0, "more than is kept was written");
}

#[tokio::test]
async fn a_reader_that_wants_every_byte_is_waited_for() {
    let (service, id) = Service::with_sandbox().await;
    let mut start = shell("head -c 20000000 /dev/zero | tr '\\0' x");
    start["backpressure"] = json!(true);
    let (mut socket, _) = begin(&service, &id, start).await;
    let frames = socket.rest().await;
    let heard: usize = frames.iter().filter(|frame| frame["type"] == "stdout").map(|frame| bytes(frame).len()).sum();
    assert_eq!(heard, 20_000_000);
    assert!(frames.iter().all(|frame| frame["type"] != "gap"));
}

#[tokio::test]
async fn standard_input_is_fed() {
    let (service, id) = Service::with_sandbox().await;
    let mut start = shell("cat");
    start["stdin"] = json!(true);
    let (mut socket, _) = begin(&service, &id, start).await;
    socket.send(json!({ "type": "stdin", "data": "aGVsbG8K", "encoding": "base64" })).await;
    assert_eq!(bytes(&socket.frame().await), b"hello\n");
    socket.send(json!({ "type": "close_stdin" })).await;
    assert_eq!(socket.rest().await.last(), Some(&json!({ "type": "exit", "exit_code": 0 })));
}

#[tokio::test]
async fn stop_is_heard_behind_input_that_nobody_reads() {
    let (service, id) = Service::with_sandbox().await;
    let piece = json!({ "type": "stdin", "data": "x".repeat(200 * 1024) });
    // More than may be on its way where that is told: it is refused, once, and not waited for. Where it is not told it waits.
    for (acks, pieces, refusals) in [(true, 200, 1), (false, 60, 0)] {
        let mut start = shell("exec sleep 1000");
        start["stdin"] = json!(true);
        start["input_acks"] = json!(acks);
        let (mut socket, _) = begin(&service, &id, start).await;
        for _ in 0..pieces {
            socket.send(piece.clone()).await;
        }
        socket.send(json!({ "type": "stop" })).await;
        let frames = socket.rest().await;
        let refused: Vec<_> = frames.iter().filter(|frame| frame["type"] == "error").collect();
        assert_eq!(refused.len(), refusals, "{frames:?}");
        for error in refused {
            assert_eq!((&error["code"], &error["fatal"]), (&json!("too_many"), &json!(false)));
        }
        assert_eq!(frames.last(), Some(&json!({ "type": "exit", "exit_code": 137, "signal": 9 })));
    }
}

#[tokio::test]
async fn whoever_asks_is_told_how_much_input_was_taken_and_loses_none() {
    const TOTAL: u64 = 40 << 20;
    let (service, id) = Service::with_sandbox().await;
    let go = service.dir.path().join("go");
    let mut start = shell(&format!("while [ ! -e {} ]; do sleep 0.05; done; wc -c", go.display()));
    start["stdin"] = json!(true);
    start["input_acks"] = json!(true);
    let (mut socket, started) = begin(&service, &id, start).await;
    let window = started["input_window"].as_u64().unwrap();
    let (mut sent, mut taken) = (0, 0);
    let piece = "x".repeat(128 * 1024);
    while taken < TOTAL {
        while sent < TOTAL && sent - taken + piece.len() as u64 <= window {
            socket.send(json!({ "type": "stdin", "data": piece })).await;
            sent += piece.len() as u64;
        }
        // It reads only once no more would go on its way.
        if !go.exists() && sent - taken + piece.len() as u64 > window {
            std::fs::write(&go, "").unwrap();
        }
        let frame = socket.frame().await;
        assert_eq!(frame["type"], "input_taken", "{frame}");
        taken = frame["bytes"].as_u64().unwrap();
        assert!(taken <= sent);
    }
    socket.send(json!({ "type": "close_stdin" })).await;
    let frames = socket.rest().await;
    let out: Vec<u8> = frames.iter().filter(|frame| frame["type"] == "stdout").flat_map(bytes).collect();
    assert_eq!(String::from_utf8(out).unwrap().trim(), TOTAL.to_string(), "{frames:?}");
}

#[tokio::test]
async fn streams_are_counted_with_their_times() {
    let (service, id) = Service::with_sandbox().await;
    let (mut socket, _) = begin(&service, &id, shell("echo out")).await;
    socket.rest().await;
    let page = String::from_utf8(service.get("/metrics").await.body.to_vec()).unwrap();
    let route = "route=\"/v1/sandboxes/{id}/exec/stream\"";
    for series in [
        format!("atoll_stream_start_duration_seconds_count{{{route}}} "),
        format!("atoll_stream_output_duration_seconds_count{{{route}}} "),
        format!("atoll_stream_output_duration_seconds_bucket{{{route},le=\"+Inf\"}} "),
        format!("atoll_http_request_duration_seconds_count{{{route},method=\"GET\",status=\"101\"}} "),
    ] {
        let value = page.lines().find_map(|line| line.strip_prefix(&series));
        assert!(value.is_some_and(|value| value.parse::<u64>().unwrap() > 0), "{series}\n{page}");
    }
}

#[tokio::test]
async fn what_fails_after_the_upgrade_is_told_and_closed() {
    let (service, id) = Service::with_sandbox().await;
    let path = format!("/v1/sandboxes/{id}/exec/stream");
    let mut missing = service.socket(&path).await;
    missing.send(json!({ "type": "start", "cmd": "no-such-program" })).await;
    let frames = missing.rest().await;
    assert_eq!(frames.last(), Some(&json!({ "type": "exit", "exit_code": 127 })), "{frames:?}");
    let mut cwd = service.socket(&path).await;
    cwd.send(json!({ "type": "start", "cmd": "true", "cwd": "/no/such" })).await;
    let error = cwd.frame().await;
    assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("invalid_request")));
    assert_eq!(cwd.closed().await.0, 1011);
    let mut late = service.socket(&path).await;
    late.send(json!({ "type": "start", "cmd": "sleep", "args": ["100"], "timeout_sec": 1 })).await;
    let frames = late.rest().await;
    assert_eq!(frames.last().unwrap()["code"], "timeout", "{frames:?}");
    let mut gone = service.socket(&format!("{path}?tag=nobody")).await;
    assert_eq!(gone.frame().await["code"], "not_found");
}

#[tokio::test]
async fn garbage_is_closed_with_a_reason() {
    let (service, id) = Service::with_sandbox().await;
    let path = format!("/v1/sandboxes/{id}/exec/stream");
    for (garbage, code) in [
        (Message::text("garbage"), 1007),
        (Message::text(r#"{"type":"nothing"}"#), 1007),
        (Message::text(r#"{"type":"stop"}"#), 1007),
        (Message::binary(vec![0; 10]), 1007),
        (Message::text("x".repeat(300 * 1024)), 1009),
    ] {
        let mut socket = service.socket(&path).await;
        socket.send_raw(garbage).await;
        let (told, reason) = socket.closed().await;
        assert_eq!(told, code, "{reason}");
        assert!(!reason.is_empty());
    }
    let (mut socket, started) = begin(&service, &id, shell("sleep 1000")).await;
    socket.send_raw(Message::text("{{{")).await;
    assert_eq!(socket.closed().await.0, 1007);
    assert!(!nothing_runs(&service, &id).await, "the process is left alone");
    let killed = service.delete(&format!("/v1/sandboxes/{id}/processes/{}", started["pid"])).await;
    assert_eq!(killed.status, 204);
}

#[tokio::test]
async fn who_may_not_is_refused_before_the_upgrade() {
    let (service, id) = Service::with_sandbox().await;
    let key = ("x-api-key", service.key.as_str());
    for path in ["exec/stream", "pty", "processes/1/stream"] {
        let path = format!("/v1/sandboxes/{id}/{path}");
        assert_eq!(service.try_socket(&path, &[]).await.err(), Some(401));
        for origin in ["http://evil.example", "null", "https://127.0.0.1"] {
            assert_eq!(service.try_socket(&path, &[key, ("origin", origin)]).await.err(), Some(403), "{origin}");
        }
        let own = format!("http://{}", service.address);
        assert!(service.try_socket(&path, &[key, ("origin", &own)]).await.is_ok());
        service.get(&path).await.problem(400, "invalid_request");
    }
    let nobody = "/v1/sandboxes/sb0000000000000000000000000/exec/stream";
    assert_eq!(service.try_socket(nobody, &[key]).await.err(), Some(404));
    assert_eq!(service.delete(&format!("/v1/sandboxes/{id}")).await.status, 204);
    assert_eq!(service.try_socket(&format!("/v1/sandboxes/{id}/pty"), &[key]).await.err(), Some(409));
}

#[tokio::test]
async fn streams_of_a_sandbox_are_bounded() {
    let (service, id) = Service::with_sandbox().await;
    let path = format!("/v1/sandboxes/{id}/pty");
    let mut open = Vec::new();
    for _ in 0..atoll_control::MAX_STREAMS {
        open.push(service.socket(&path).await);
    }
    assert_eq!(service.try_socket(&path, &[("x-api-key", &service.key)]).await.err(), Some(429));
    drop(open);
    eventually("there is room again", async || service.try_socket(&path, &[("x-api-key", &service.key)]).await.is_ok())
        .await;
}
