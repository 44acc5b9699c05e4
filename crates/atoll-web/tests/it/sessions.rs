//! Both ways at once: what is sent to a process never stands in the way of what is said about it, and whoever says nonsense hears why.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Service, Socket, eventually};

fn fed(line: &str) -> Value {
    json!({ "type": "start", "cmd": "/bin/sh", "args": ["-c", line], "stdin": true })
}

async fn started(service: &Service, id: &str, path: &str, first: Value) -> (Socket, Value) {
    let mut socket = service.socket(&format!("/v1/sandboxes/{id}/{path}")).await;
    socket.send(first).await;
    let started = socket.frame().await;
    (socket, started)
}

async fn nothing_runs(service: &Service, id: &str) -> bool {
    service.get(&format!("/v1/sandboxes/{id}/processes")).await.json()["processes"] == json!([])
}

/// More than a pipe takes, less than waits for a process at most.
async fn fill(socket: &mut Socket) {
    for _ in 0..6 {
        socket.send(json!({ "type": "stdin", "data": "x".repeat(100_000) })).await;
    }
}

#[tokio::test]
async fn stop_is_heard_behind_input_that_nobody_reads() {
    let (service, id) = Service::with_sandbox().await;
    let (mut socket, _) = started(&service, &id, "exec/stream", fed("sleep 1000")).await;
    fill(&mut socket).await;
    socket.send(json!({ "type": "stop" })).await;
    assert_eq!(socket.rest().await.last(), Some(&json!({ "type": "exit", "exit_code": 137, "signal": 9 })));

    let start = json!({ "type": "start", "cmd": "/bin/sh", "args": ["-c", "stty raw; echo up; sleep 1000"] });
    let (mut socket, _) = started(&service, &id, "pty", start).await;
    socket.frame().await;
    for _ in 0..6 {
        socket.send_raw(Message::binary(vec![b'x'; 100_000])).await;
    }
    socket.send(json!({ "type": "kill" })).await;
    eventually("nothing runs", async || nothing_runs(&service, &id).await).await;
}

#[tokio::test]
async fn input_waits_for_a_process_and_arrives_whole() {
    let (service, id) = Service::with_sandbox().await;
    let (mut socket, _) = started(&service, &id, "exec/stream", fed("sleep 1; wc -c")).await;
    // More than waits for a process at most: beyond it this client waits, until the process reads.
    for _ in 0..10 {
        fill(&mut socket).await;
    }
    socket.send(json!({ "type": "close_stdin" })).await;
    let frames = socket.rest().await;
    let said: String = frames.iter().filter_map(|frame| frame["data"].as_str()).collect();
    assert_eq!(said.trim(), "6000000", "{frames:?}");
}

#[tokio::test]
async fn what_a_client_said_before_it_left_is_done() {
    let (service, id) = Service::with_sandbox().await;
    let (mut socket, _) = started(&service, &id, "exec/stream", fed("exec yes")).await;
    socket.frame().await;
    socket.send(json!({ "type": "stop" })).await;
    drop(socket);
    eventually("nothing runs", async || nothing_runs(&service, &id).await).await;

    let file = service.dir.path().join("input");
    let (mut socket, _) = started(&service, &id, "exec/stream", fed(&format!("cat > {}", file.display()))).await;
    fill(&mut socket).await;
    socket.send(json!({ "type": "close_stdin" })).await;
    drop(socket);
    eventually("nothing runs", async || nothing_runs(&service, &id).await).await;
    assert_eq!(std::fs::metadata(&file).unwrap().len(), 600_000);
}

/// Every kind of socket, opened and begun.
async fn every_kind(service: &Service, id: &str) -> Vec<Socket> {
    let mut start = fed("sleep 1000");
    start["tag"] = json!("followed");
    let (stream, _) = started(service, id, "exec/stream", start).await;
    let start = json!({ "type": "start", "cmd": "sleep", "args": ["1000"] });
    let (terminal, _) = started(service, id, "pty", start).await;
    let mut follower = service.socket(&format!("/v1/sandboxes/{id}/processes/followed/stream")).await;
    follower.frame().await;
    vec![stream, terminal, follower]
}

#[tokio::test]
async fn bytes_that_are_no_frame_are_closed_with_a_reason() {
    // A reserved opcode; text that is not UTF-8, masked with zeroes.
    for (bytes, code) in [(vec![0x83_u8, 0x80, 0, 0, 0, 0], 1007), (vec![0x81, 0x82, 0, 0, 0, 0, 0xc3, 0x28], 1007)] {
        let (service, id) = Service::with_sandbox().await;
        for mut socket in every_kind(&service, &id).await {
            socket.send_bytes(&bytes).await;
            let (told, reason) = socket.closed().await;
            assert!(told == code && !reason.is_empty(), "{told} {reason}");
        }
        let running = service.get(&format!("/v1/sandboxes/{id}/processes")).await.json();
        assert_eq!(running["processes"].as_array().unwrap().len(), 2, "they are left alone");
        service.delete(&format!("/v1/sandboxes/{id}")).await;
    }
}

#[tokio::test]
async fn garbage_behind_a_keystroke_is_closed_with_a_reason() {
    let (service, id) = Service::with_sandbox().await;
    for garbage in [Message::text("{{{"), Message::text("x".repeat(300 * 1024))] {
        let start = json!({ "type": "start", "cmd": "sleep", "args": ["1000"] });
        let (mut socket, _) = started(&service, &id, "pty", start).await;
        socket.send_raw(Message::binary(b"k".to_vec())).await;
        socket.send_raw(garbage).await;
        let (told, reason) = socket.closed().await;
        assert!([1007, 1009].contains(&told) && !reason.is_empty(), "{told} {reason}");
    }
}
