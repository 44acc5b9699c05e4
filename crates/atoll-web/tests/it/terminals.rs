//! Terminals over WebSockets.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::{Heard, Service, Socket, eventually};

fn start() -> Value {
    json!({ "type": "start", "cmd": "/bin/sh", "args": [], "cols": 80, "rows": 24, "envs": { "PS1": "$ " }, "cwd": "", "user": "" })
}

pub(crate) fn input(text: &str) -> Value {
    json!({ "type": "input", "data": STANDARD.encode(text) })
}

/// Reads output until it holds a text; answers how many bytes there were.
pub(crate) async fn until(socket: &mut Socket, text: &str) -> u64 {
    let mut seen = Vec::new();
    loop {
        match socket.hear().await {
            Heard::Frame(frame) if frame["type"] == "output" => {
                seen.extend(STANDARD.decode(frame["data"].as_str().unwrap()).unwrap());
            }
            Heard::Binary(bytes) => seen.extend_from_slice(&bytes),
            Heard::Frame(frame) if frame["type"] == "ping" => {}
            other => panic!("{other:?} after {}", String::from_utf8_lossy(&seen)),
        }
        if String::from_utf8_lossy(&seen).contains(text) {
            return seen.len() as u64;
        }
    }
}

#[tokio::test]
async fn a_terminal_is_typed_into_resized_and_ended() {
    let (service, id) = Service::with_sandbox().await;
    let mut socket = service.socket(&format!("/v1/sandboxes/{id}/pty")).await;
    socket.send(start()).await;
    let started = socket.frame().await;
    assert_eq!(started["type"], "started");
    assert!(started["tag"].as_str().unwrap().starts_with("pty-"), "{started}");
    socket.send(input("stty size\n")).await;
    until(&mut socket, "24 80").await;
    socket.send(json!({ "type": "resize", "cols": 101, "rows": 33 })).await;
    socket.send(input("stty size; echo $TERM\n")).await;
    until(&mut socket, "33 101\r\nxterm-256color").await;
    socket.send(json!({ "type": "pong" })).await;
    socket.send(input("exit 7\n")).await;
    let frames = socket.rest().await;
    assert_eq!(frames.last(), Some(&json!({ "type": "exit", "exit_code": 7 })));
}

#[tokio::test]
async fn a_terminal_survives_its_connection() {
    let (service, id) = Service::with_sandbox().await;
    let path = format!("/v1/sandboxes/{id}/pty");
    let mut socket = service.socket(&path).await;
    socket.send(start()).await;
    let started = socket.frame().await;
    socket.send(input("V=kept; echo ready-$V\n")).await;
    until(&mut socket, "ready-kept").await;
    drop(socket);
    let mut again = service.socket(&path).await;
    again.send(json!({ "type": "connect", "tag": started["tag"] })).await;
    assert_eq!(again.frame().await["pid"], started["pid"]);
    until(&mut again, "ready-kept").await;
    again.send(input("echo again-$V\n")).await;
    until(&mut again, "again-kept").await;
    again.send(json!({ "type": "kill" })).await;
    assert_eq!(again.rest().await.last().unwrap()["type"], "exit");
    let mut gone = service.socket(&path).await;
    gone.send(json!({ "type": "connect", "tag": "pty-nobody" })).await;
    let error = gone.frame().await;
    assert_eq!((&error["type"], &error["code"], &error["fatal"]), (&json!("error"), &json!("not_found"), &json!(true)));
}

#[tokio::test]
async fn a_client_that_speaks_binary_is_answered_in_binary() {
    let (service, id) = Service::with_sandbox().await;
    for (query, asked) in [("", false), ("?wire=binary", true)] {
        let mut socket = service.socket(&format!("/v1/sandboxes/{id}/pty{query}")).await;
        socket.send(start()).await;
        assert_eq!(socket.frame().await["type"], "started");
        if asked {
            assert!(matches!(socket.hear().await, Heard::Binary(_)), "the prompt");
        }
        socket.send_raw(Message::binary("echo bin-$((1+1))\n")).await;
        loop {
            match socket.hear().await {
                Heard::Binary(bytes) if String::from_utf8_lossy(&bytes).contains("bin-2") => break,
                Heard::Binary(_) => {}
                Heard::Frame(frame) if !asked && frame["type"] == "output" => {}
                other => panic!("{other:?}"),
            }
        }
        socket.send(json!({ "type": "kill" })).await;
    }
    let unknown = format!("/v1/sandboxes/{id}/pty?wire=morse");
    assert_eq!(service.try_socket(&unknown, &[("x-api-key", &service.key)]).await.err(), Some(400));
}

#[tokio::test]
async fn keystrokes_keep_their_order() {
    let (service, id) = Service::with_sandbox().await;
    let mut socket = service.socket(&format!("/v1/sandboxes/{id}/pty?wire=binary")).await;
    socket.send(json!({ "type": "start", "cmd": "cat" })).await;
    assert_eq!(socket.frame().await["type"], "started");
    let text: String = (0..300).map(|n| format!("{n},")).collect();
    for piece in text.as_bytes() {
        socket.send_raw(Message::binary(vec![*piece])).await;
    }
    socket.send_raw(Message::binary("end\n")).await;
    until(&mut socket, &format!("{text}end")).await;
    socket.send(json!({ "type": "kill" })).await;
}

#[tokio::test]
async fn what_a_binary_terminal_missed_is_told_in_a_text_frame() {
    let (service, id) = Service::with_sandbox().await;
    let path = format!("/v1/sandboxes/{id}/pty?wire=binary");
    let mark = service.dir.path().join("written");
    // More than is kept, and no line's end in it, which a terminal would change.
    let total = 3_000_000;
    let line = format!("head -c {total} /dev/zero; touch {}; read x; exit 4", mark.display());
    let mut socket = service.socket(&path).await;
    socket.send(json!({ "type": "start", "cmd": "/bin/sh", "args": ["-c", line] })).await;
    let started = socket.frame().await;
    assert_eq!(started["offset"], 0, "{started}");
    // Nobody reads, and the program goes on.
    drop(socket);
    eventually("all is written", async || mark.exists()).await;

    let left: u64 = 1000;
    let mut again = service.socket(&path).await;
    again.send(json!({ "type": "connect", "tag": started["tag"], "offset": left })).await;
    let started = again.frame().await;
    assert_eq!((&started["type"], &started["offset"]), (&json!("started"), &json!(left)));
    // Bytes are counted from the offset in `started`; what is told as a gap is counted with them.
    let (mut at, mut gaps) = (left, 0);
    while at < total {
        match again.hear().await {
            Heard::Frame(frame) if frame["type"] == "gap" => {
                assert_eq!(frame["offset"], at, "{frame}");
                let missed = frame["bytes"].as_u64().unwrap();
                assert!(missed > 0, "{frame}");
                (at, gaps) = (at + missed, gaps + missed);
            }
            Heard::Frame(frame) if frame["type"] == "ping" => {}
            Heard::Binary(bytes) => {
                assert!(bytes.iter().all(|byte| *byte == 0), "{bytes:?}");
                at += bytes.len() as u64;
            }
            other => panic!("{other:?} at {at}"),
        }
    }
    assert_eq!(at, total);
    assert!(gaps > 0, "all {total} bytes were kept");
    again.send_raw(Message::binary("\n")).await;
    loop {
        match again.hear().await {
            Heard::Binary(_) => {}
            Heard::Frame(frame) => break assert_eq!(frame, json!({ "type": "exit", "exit_code": 4 })),
            other @ Heard::Closed(_) => panic!("{other:?}"),
        }
    }
}
