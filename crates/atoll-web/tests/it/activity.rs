//! What is a use of a sandbox over the API: bytes, whichever way they go; never a stream that is merely open.
//!
//! How it works: `last_active_at` is read before and after something. It has milliseconds, so between the two the clock is waited for
//! ([`idle`]). Programs that are silent while they read tell input from output.
//!
//! Deliberately absent: the loops that tell the host of uses (atoll-control), and the debug port's bytes ([`crate::debug_port`]).

use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpStream;

use crate::files::{form, part, write};
use crate::streams::{begin, bytes, shell};
use crate::support::{Service, eventually};
use crate::terminals::{input, until};

/// More than all sockets on the way from the agent to the client hold.
const LARGE: u64 = 100 * 1024 * 1024;

/// When it was used last.
async fn last_use(service: &Service, id: &str) -> String {
    let sandbox = service.get(&format!("/v1/sandboxes/{id}")).await.json();
    sandbox["last_active_at"].as_str().unwrap().to_owned()
}

/// The same, once the next use would be told as a later one.
async fn idle(service: &Service, id: &str) -> String {
    let last = last_use(service, id).await;
    eventually("the next millisecond", async || format!("{:.3}", jiff::Timestamp::now()) > last).await;
    last
}

#[tokio::test]
async fn what_a_command_is_told_and_what_it_says_are_uses() {
    let (service, id) = Service::with_sandbox().await;
    let heard = service.dir.path().join("heard");
    let mut start = shell(&format!("echo ready; cat > {}; echo bye", heard.display()));
    start["stdin"] = json!(true);
    let (mut socket, _) = begin(&service, &id, start).await;
    assert_eq!(bytes(&socket.frame().await), b"ready\n");
    let before = idle(&service, &id).await;
    socket.send(json!({ "type": "stdin", "data": "typed\n" })).await;
    eventually("it to be read", async || std::fs::read(&heard).is_ok_and(|text| text == b"typed\n")).await;
    assert!(last_use(&service, &id).await > before, "input, to which nothing was said");
    let before = idle(&service, &id).await;
    // No byte of input is in this.
    socket.send(json!({ "type": "close_stdin" })).await;
    assert_eq!(bytes(&socket.frame().await), b"bye\n");
    assert!(last_use(&service, &id).await > before, "output");
}

#[tokio::test]
async fn what_a_terminal_is_told_and_what_it_says_are_uses() {
    let (service, id) = Service::with_sandbox().await;
    let (heard, go) = (service.dir.path().join("heard"), service.dir.path().join("go"));
    // Without an echo, which would be output.
    let line = format!(
        "stty -echo; echo ready; read line; echo $line > {}; while [ ! -e {} ]; do sleep 0.05; done; echo bye",
        heard.display(),
        go.display()
    );
    let mut socket = service.socket(&format!("/v1/sandboxes/{id}/pty")).await;
    socket.send(json!({ "type": "start", "cmd": "/bin/sh", "args": ["-c", line] })).await;
    assert_eq!(socket.frame().await["type"], "started");
    until(&mut socket, "ready\r\n").await;
    let before = idle(&service, &id).await;
    socket.send(input("typed\n")).await;
    eventually("it to be read", async || std::fs::read(&heard).is_ok_and(|text| text == b"typed\n")).await;
    assert!(last_use(&service, &id).await > before, "input, to which nothing was said");
    let before = idle(&service, &id).await;
    std::fs::write(&go, "").unwrap();
    until(&mut socket, "bye").await;
    assert!(last_use(&service, &id).await > before, "output");
}

#[tokio::test]
async fn a_stream_that_is_open_and_silent_is_no_use() {
    let (service, id) = Service::with_sandbox().await;
    let mut start = shell("echo ready; read line");
    start["stdin"] = json!(true);
    let (mut command, _) = begin(&service, &id, start).await;
    assert_eq!(bytes(&command.frame().await), b"ready\n");
    let mut terminal = service.socket(&format!("/v1/sandboxes/{id}/pty")).await;
    terminal.send(json!({ "type": "start", "cmd": "/bin/sh", "args": ["-c", "echo ready; read line"] })).await;
    assert_eq!(terminal.frame().await["type"], "started");
    until(&mut terminal, "ready\r\n").await;
    let before = idle(&service, &id).await;
    // After half a minute the agent says of each that it is still there.
    let ((), told) = tokio::join!(command.pinged(), terminal.frame());
    assert_eq!(told["type"], "ping");
    assert_eq!(last_use(&service, &id).await, before);
    command.send(json!({ "type": "stop" })).await;
    terminal.send(json!({ "type": "kill" })).await;
    assert_eq!(command.rest().await.last().unwrap()["type"], "exit");
    assert_eq!(terminal.rest().await.last().unwrap()["type"], "exit");
}

#[tokio::test]
async fn a_file_on_its_way_in_is_a_use() {
    let (service, id) = Service::with_sandbox().await;
    let path = service.dir.path().join("in").display().to_string();
    for how in ["write", "stream/write"] {
        let before = idle(&service, &id).await;
        let body = form(&[part("path", path.as_bytes()), part("file", b"bytes")]);
        assert_eq!(write(&service, &id, how, body).await.status, 204);
        assert!(last_use(&service, &id).await > before, "{how}");
    }
}

#[tokio::test]
async fn every_piece_of_a_file_on_its_way_out_is_a_use() {
    let (service, id) = Service::with_sandbox().await;
    let path = service.dir.path().join("out");
    std::fs::File::create(&path).unwrap().set_len(LARGE).unwrap();
    let stream = TcpStream::connect(&service.address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let asked = json!({ "path": path.display().to_string() }).to_string();
    let request = http::Request::post(format!("/v1/sandboxes/{id}/files/read"))
        .header("host", "atoll")
        .header("x-api-key", &service.key)
        .header("content-type", "application/json")
        .body(Full::new(bytes::Bytes::from(asked)))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    let mut came = body.frame().await.unwrap().unwrap().data_ref().unwrap().len() as u64;
    // Nobody took more yet, so not all of it has left the agent.
    let before = idle(&service, &id).await;
    while let Some(frame) = body.frame().await {
        came += frame.unwrap().data_ref().unwrap().len() as u64;
    }
    assert_eq!(came, LARGE);
    assert!(last_use(&service, &id).await > before, "what came after the first piece");
    connection.abort();
}
