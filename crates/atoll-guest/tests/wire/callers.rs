//! Who is let in, and for what: by the token, by a signed URL, and how many at once. Spoken by hand, as clients of other makers
//! do. Needs root.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::{
    raw::request,
    support::{Agent, TOKEN, eventually, init},
};

#[tokio::test]
async fn a_signed_url_opens_one_file_for_one_purpose() {
    let agent = Agent::start();
    agent.client().init(&init()).await.unwrap();
    let path = agent.path("signed");
    std::fs::write(&path, "content").unwrap();
    let sign = |operation: &str, expiration: &str| {
        let text = format!("{path}:{operation}:root:{TOKEN}{expiration}");
        let signature = format!("v1_{}", STANDARD_NO_PAD.encode(Sha256::digest(text)));
        signature.replace('+', "%2B").replace('/', "%2F")
    };
    let get = |signature: &str, more: &str| {
        let line = format!("GET /files?path={path}&username=root&signature={signature}{more}");
        request(&agent, &line, &[], b"")
    };
    let answer = get(&sign("read", ""), "");
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"content"[..]));
    let later = "4000000000";
    assert_eq!(get(&sign("read", &format!(":{later}")), &format!("&signature_expiration={later}")).status, 200);
    let answer = get(&sign("read", ":1000"), "&signature_expiration=1000");
    assert_eq!(answer.json(), json!({"code": 401, "message": "signature is already expired"}));
    assert_eq!(get(&sign("read", ""), &format!("&signature_expiration={later}")).status, 401);
    assert_eq!(get(&sign("write", ""), "").status, 401);
    assert_eq!(get("v1_nonsense", "").status, 401);
}

#[tokio::test]
async fn a_signed_url_takes_one_file_for_writing_and_nothing_else() {
    let agent = Agent::start();
    agent.client().init(&init()).await.unwrap();
    let (path, other) = (agent.path("taken"), agent.path("other"));
    let sign = |path: &str, operation: &str, more: &str| {
        let digest = Sha256::digest(format!("{path}:{operation}:root:{TOKEN}{more}"));
        format!("v1_{}", STANDARD_NO_PAD.encode(digest)).replace('+', "%2B").replace('/', "%2F")
    };
    let post = |path: &str, signature: &str, more: &str, body: &[u8]| {
        let line = format!("POST /files?path={path}&username=root&signature={signature}{more}");
        request(&agent, &line, &[("Content-Type", "application/octet-stream")], body)
    };
    let written = post(&path, &sign(&path, "write", ""), "", b"first");
    assert_eq!(written.json(), json!([{"path": path, "name": "taken", "type": "file"}]));
    let later = "4000000000";
    let until = format!("&signature_expiration={later}");
    assert_eq!(post(&path, &sign(&path, "write", &format!(":{later}")), &until, b"second").status, 200);
    // A form goes to the path that was signed, whatever name it gives.
    let form =
        format!("--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{other}\"\r\n\r\nthird\r\n--B--\r\n");
    let line = format!("POST /files?path={path}&username=root&signature={}", sign(&path, "write", ""));
    let kind = ("Content-Type", "multipart/form-data; boundary=B");
    assert_eq!(request(&agent, &line, &[kind], form.as_bytes()).status, 200);
    assert_eq!(std::fs::read(&path).unwrap(), b"third");
    let late = post(&path, &sign(&path, "write", ":1000"), "&signature_expiration=1000", b"late");
    assert_eq!(late.json(), json!({"code": 401, "message": "signature is already expired"}));
    for (path, signature, more) in [
        (&path, sign(&path, "read", ""), ""),
        (&path, sign(&path, "write", ""), until.as_str()),
        (&path, sign(&path, "write", &format!(":{later}")), ""),
        (&path, "v1_nonsense".to_owned(), ""),
        (&path, String::new(), ""),
        (&other, sign(&path, "write", ""), ""),
    ] {
        let refused = post(path, &signature, more, b"refused");
        assert_eq!(refused.status, 401, "{path} {signature} {more}: {}", String::from_utf8_lossy(&refused.body));
    }
    assert_eq!(std::fs::read(&path).unwrap(), b"third");
    assert!(!std::path::Path::new(&other).exists());
}

#[tokio::test]
async fn the_default_variables_are_told_to_who_has_the_token() {
    let agent = Agent::start();
    let mut told = init();
    told.env_vars = Some([("COLOUR".to_owned(), "blue".to_owned()), ("EMPTY".to_owned(), String::new())].into());
    agent.client().init(&told).await.unwrap();
    let token = ("X-Access-Token", TOKEN);
    let answer = request(&agent, "GET /envs", &[token], b"");
    assert_eq!((answer.status, answer.json()), (200, json!({"COLOUR": "blue", "EMPTY": ""})));
    assert_eq!(answer.headers["content-type"], "application/json");
    for headers in [&[][..], &[("X-Access-Token", "a-wrong-token-entirely")]] {
        let refused = request(&agent, "GET /envs", headers, b"");
        assert_eq!(refused.status, 401);
        assert!(!String::from_utf8_lossy(&refused.body).contains("blue"));
    }
    assert_eq!(request(&agent, "POST /envs", &[token], b"{}").status, 405);
    // What a later /init names replaces them as a whole.
    let mut changed = init();
    changed.env_vars = Some([("SHAPE".to_owned(), "round".to_owned())].into());
    let owner = agent.client_with(Some(TOKEN), atoll_guest_client::Limits::default());
    owner.init(&changed).await.unwrap();
    assert_eq!(owner.envs().await.unwrap(), [("SHAPE".to_owned(), "round".to_owned())].into());
}

/// A connection on which nothing was said yet.
fn connect(agent: &Agent) -> TcpStream {
    let stream = TcpStream::connect(&agent.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Whether the agent takes a request on a new connection.
fn is_answered(agent: &Agent) -> bool {
    let mut stream = connect(agent);
    // Who is not let in may find the connection closed at any of these.
    let asked = stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let mut status = [0; 12];
    asked.and_then(|()| stream.read_exact(&mut status)).is_ok() && status == *b"HTTP/1.1 200"
}

#[tokio::test]
async fn callers_that_are_not_the_host_share_a_few_connections() {
    let agent = Agent::start();
    let mut open: Vec<_> = (0..64).map(|_| connect(&agent)).collect();
    assert!(!is_answered(&agent), "one more than all of them together may have");
    open.pop();
    eventually("room for one more", || is_answered(&agent)).await;
    open.clear();
    eventually("room for all", || is_answered(&agent)).await;
}
