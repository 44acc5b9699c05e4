//! The debug port: whose it is, what it passes on, when it ends.

use atoll_domain::host::HostError;
use http::Method;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::support::{Service, eventually, exchange};

fn asks() -> String {
    json!({ "debug_port": true }).to_string()
}

/// The service with one sandbox that has the port.
async fn served() -> (Service, String, String) {
    let service = Service::start().await;
    let made = service.local(Method::POST, "/v1/sandboxes", asks()).await;
    assert_eq!(made.status, 201, "{made:?}");
    let id = made.json()["id"].as_str().unwrap().to_owned();
    let address = service.debug_port.address().expect("it is served").to_string();
    (service, id, address)
}

async fn ask(address: &str, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, Value) {
    let stream = TcpStream::connect(address).await.unwrap();
    let mut all = vec![("host", "127.0.0.1:49983")];
    all.extend_from_slice(headers);
    let answer = exchange(stream, method, path, &all, body.to_owned().into()).await;
    (answer.status.as_u16(), serde_json::from_slice(&answer.body).unwrap_or_default())
}

#[tokio::test]
async fn it_speaks_for_the_agent_and_for_nothing_else() {
    let (service, _, address) = served().await;
    let (status, health) = ask(&address, Method::GET, "/health", &[], "").await;
    assert_eq!((status, &health["protocol"]), (200, &json!(2)), "{health}");
    let kind = ("content-type", "application/json");
    let (status, list) = ask(&address, Method::POST, "/process.Process/List", &[kind], "{}").await;
    assert_eq!((status, list), (200, json!({})));
    assert_eq!(ask(&address, Method::POST, "/init", &[kind], "{}").await.0, 404);
    assert_eq!(ask(&address, Method::POST, "/snapshot/prepare", &[kind], "{}").await.0, 404);
    assert_eq!(ask(&address, Method::GET, "/health", &[("origin", "http://127.0.0.1")], "").await.0, 403);
    service.shut_down().await;
    assert!(TcpStream::connect(&address).await.is_err(), "it ends with Atoll");
}

#[tokio::test]
async fn a_stream_comes_as_it_is_written_and_its_bytes_are_uses() {
    let (service, id, address) = served().await;
    let last_use = async || {
        let sandbox = service.get(&format!("/v1/sandboxes/{id}")).await.json();
        sandbox["last_active_at"].as_str().unwrap().to_owned()
    };
    let go = service.dir.path().join("go");
    let line = format!("echo first; while [ ! -e {} ]; do sleep 0.05; done; echo second", go.display());
    let message = json!({ "process": { "cmd": "/bin/sh", "args": ["-c", line] } }).to_string();
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend(message.as_bytes());
    let stream = TcpStream::connect(&address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::post("/process.Process/Start")
        .header("host", "localhost:49983")
        // Basic, for the user root.
        .header("authorization", "Basic cm9vdDo=")
        .header("content-type", "application/connect+json")
        .body(Full::new(bytes::Bytes::from(body)))
        .unwrap();
    let mut response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let mut seen = String::new();
    let mut until = async |wanted: &str| {
        while !seen.contains(wanted) {
            let frame = response.body_mut().frame().await.unwrap_or_else(|| panic!("ended after {seen}")).unwrap();
            seen.push_str(&String::from_utf8_lossy(frame.data_ref().unwrap()));
        }
    };
    until("Zmlyc3QK").await;
    let before = last_use().await;
    assert_eq!(last_use().await, before, "a stream that says nothing is no use");
    std::fs::write(&go, "").unwrap();
    until("c2Vjb25kCg==").await;
    assert!(last_use().await > before);
    until("\"end\"").await;
    connection.abort();
}

#[tokio::test]
async fn it_is_one_sandboxs_until_that_ends() {
    let (service, id, address) = served().await;
    let second = service.local(Method::POST, "/v1/sandboxes", asks()).await.problem(409, "conflict");
    assert!(second["detail"].as_str().unwrap().contains(&id), "{second}");
    assert_eq!(service.get("/v1/sandboxes").await.json().as_array().unwrap().len(), 1, "nothing was begun");
    service.post("/v1/sandboxes", asks()).await.problem(403, "forbidden");
    assert_eq!(service.delete(&format!("/v1/sandboxes/{id}")).await.status, 204);
    let next = service.local(Method::POST, "/v1/sandboxes", asks()).await;
    assert_eq!(next.status, 201, "it is free at once: {next:?}");
    let id = next.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(service.delete(&format!("/v1/sandboxes/{id}")).await.status, 204);
    eventually("it is closed without a next", async || service.debug_port.address().is_none()).await;
    assert!(TcpStream::connect(&address).await.is_err());
    service.fail_next(HostError::Unavailable("not now".into()));
    assert_eq!(service.local(Method::POST, "/v1/sandboxes", asks()).await.status, 503);
    let made = service.local(Method::POST, "/v1/sandboxes", asks()).await;
    assert_eq!(made.status, 201, "a create that failed gives it back: {made:?}");
}
