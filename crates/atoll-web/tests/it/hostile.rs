//! A guest's agent that lies, through the whole API: every lie has its status, and Atoll goes on.

use http::Method;
use serde_json::{Value, json};

use crate::agent_host::Lie;
use crate::support::Service;

const PROTO: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/proto\r\n\r\n";
const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/connect+proto\r\n\r\n";

fn say(text: impl Into<Vec<u8>>) -> Lie {
    Lie { begin: text.into(), forever: Vec::new(), silent: false }
}

fn forever(begin: &str, piece: &str) -> Lie {
    Lie { begin: begin.into(), forever: piece.repeat(1000).into(), silent: false }
}

/// A stream whose first frame claims to be so long.
fn frame(length: u32) -> Lie {
    say([STREAM.as_bytes(), &[0], &length.to_be_bytes(), b"x"].concat())
}

/// A body that says it is compressed and would unpack to very much.
fn bomb() -> Lie {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/proto\r\ncontent-encoding: gzip\r\n\r\n\x1f";
    Lie { begin: [head.as_bytes(), b"\x8b\x08\0\0\0\0\0\0\x03"].concat(), forever: vec![0; 4096], silent: false }
}

#[tokio::test]
async fn every_lie_is_a_failed_agent_and_nothing_more() {
    let (service, id) = Service::with_sandbox().await;
    let at = |what: &str| format!("/v1/sandboxes/{id}/{what}");
    let (exec, list) = (at("exec"), at("files/list"));
    let (run, root) = (json!({ "cmd": "true" }).to_string(), json!({ "path": "/" }).to_string());
    let lies: Vec<(&str, Lie, Method, &str, &str)> = vec![
        ("endless heads", forever("HTTP/1.1 200 OK\r\n", "x-header: 1\r\n"), Method::POST, &list, &root),
        ("an endless head", forever("HTTP/1.1 200 OK\r\nx: ", "x"), Method::POST, &exec, &run),
        ("an endless body", forever(PROTO, "\x0a\x02\x0a\0"), Method::POST, &list, &root),
        ("a bomb", bomb(), Method::POST, &list, &root),
        ("a frame of 4 GiB", frame(u32::MAX), Method::POST, &exec, &run),
        ("the wrong type", say("HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n<html>"), Method::POST, &list, &root),
        ("no HTTP", say("\x16\x03\x01\x02\0"), Method::POST, &exec, &run),
        ("nothing", say(""), Method::POST, &list, &root),
        ("half a message", say(format!("{PROTO}\x0a\x7f")), Method::POST, &list, &root),
    ];
    for (name, lie, method, path, body) in lies {
        service.lie(Some(lie));
        let kind = [("content-type", "application/json")];
        let answer = service.call(method, path, &kind, body.to_owned()).await;
        assert_eq!(answer.status, 502, "{name}: {answer:?}");
        answer.problem(502, "agent_error");
    }
    service.lie(None);
    assert_eq!(service.shell(&id, "echo well").await["stdout"], "well\n");
}

#[tokio::test]
async fn an_agent_that_says_nothing_is_given_up() {
    let (service, id) = Service::with_sandbox().await;
    service.lie(Some(Lie { silent: true, ..say("") }));
    let answer = service.post(&format!("/v1/sandboxes/{id}/files/list"), r#"{"path":"/"}"#).await;
    answer.problem(504, "timeout");
}

#[tokio::test]
async fn a_lie_inside_a_stream_is_told_and_the_socket_closed() {
    let (service, id) = Service::with_sandbox().await;
    for lie in [frame(u32::MAX), forever(STREAM, "\0\0\0\0\x05garba"), say("HTTP/1.1 500 no\r\n\r\n")] {
        service.lie(Some(lie));
        let mut socket = service.socket(&format!("/v1/sandboxes/{id}/exec/stream")).await;
        socket.send(json!({ "type": "start", "cmd": "true" })).await;
        let error: Value = socket.frame().await;
        assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("agent_error")), "{error}");
        assert_eq!(socket.closed().await.0, 1011);
    }
}

#[tokio::test]
async fn a_file_that_breaks_off_is_seen_to_break_off() {
    let (service, id) = Service::with_sandbox().await;
    service.lie(Some(say("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nonly this")));
    let read = service.broken(&format!("/v1/sandboxes/{id}/files/read"), r#"{"path":"/x"}"#).await;
    assert!(read, "nine bytes of a thousand must not look like a whole file");
}
