//! What no good client sends, and starts that cannot be: a clear error each, and nothing happens.

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::process::Output;
use std::sync::Arc;

use crate::guest::Guest;
use crate::server::{Data, Server, atoll, shared};
use crate::wire::{Reply, send, send_as};

const JSON: &str = "application/json";

fn assert_problem(reply: &Reply, status: u16, code: &str, about: &str) {
    assert_eq!(reply.status, status, "{about}: {reply:?}");
    let problem = reply.json();
    assert_eq!(
        (problem["error"]["code"].as_str(), problem["status"].as_u64()),
        (Some(code), Some(status.into())),
        "{about}"
    );
    assert!(problem["error"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{about}");
    assert!(problem["request_id"].as_str().is_some_and(|id| id.starts_with("req-")), "{about}");
}

#[tokio::test]
async fn bad_creates_are_refused_by_field_and_make_nothing() {
    // One of its own: what is counted is made by nobody else.
    let server = Server::start();
    let cpus = std::thread::available_parallelism().unwrap().get();
    let over = format!(r#"{{"vcpus": {}}}"#, (cpus * 2 + 1).max(33));
    for (body, pointer) in [
        (r#"{"vcpus": -1}"#, "/vcpus"),
        (over.as_str(), "/vcpus"),
        (r#"{"memory_mb": -512}"#, "/memory_mb"),
        (r#"{"memory_mb": 1}"#, "/memory_mb"),
        (r#"{"memory_mb": 99999999}"#, "/memory_mb"),
        (r#"{"disk_mb": 9999999999}"#, "/disk_mb"),
        (r#"{"timeout_sec": -1}"#, "/timeout_sec"),
        (r#"{"network": "lan"}"#, "/network"),
        (r#"{"template": "../../etc"}"#, "/template"),
        (r#"{"envs": {"A B": "1"}}"#, "/envs"),
        (r#"{"vcpus": "two"}"#, "/vcpus"),
        (r#"{"no_such_field": 1}"#, "/no_such_field"),
    ] {
        let reply = send(&server, "POST /v1/sandboxes", JSON, body.as_bytes()).await;
        assert_problem(&reply, 400, "invalid_request", body);
        assert_eq!(reply.json()["errors"][0]["pointer"], pointer, "{body}: {}", reply.body);
    }
    let unknown = send(&server, "POST /v1/sandboxes", JSON, br#"{"template": "nonesuch"}"#).await;
    assert_problem(&unknown, 404, "not_found", "an unknown template");
    assert!(unknown.body.contains("nonesuch"), "{}", unknown.body);
    for body in ["{", "[]", "null", "\"x\"", "{\"vcpus\": 1", "{}{}", "\u{ff}"] {
        let reply = send(&server, "POST /v1/sandboxes", JSON, body.as_bytes()).await;
        assert_problem(&reply, 400, "invalid_request", body);
    }
    assert_eq!(server.client().sandboxes().await.unwrap(), []);
}

#[tokio::test]
async fn an_emulating_host_gives_at_most_twice_its_cores() {
    let mut command = atoll(&[]);
    command.env("ATOLL_ACCELERATOR", "tcg");
    let server = Server::start_as(Arc::new(Data::new()), command);
    let most = (std::thread::available_parallelism().unwrap().get() * 2).min(32);
    let body = format!(r#"{{"vcpus": {}}}"#, most + 1);
    let reply = send(&server, "POST /v1/sandboxes", JSON, body.as_bytes()).await;
    assert_problem(&reply, 400, "invalid_request", &body);
    let error = &reply.json()["errors"][0];
    assert_eq!((&error["pointer"], &error["max"]), (&"/vcpus".into(), &most.into()), "{error}");
    assert_eq!(server.client().sandboxes().await.unwrap(), []);
}

#[tokio::test]
async fn huge_and_odd_requests_are_refused() {
    let server = shared();
    let huge = format!(r#"{{"template": "{}"}}"#, "x".repeat(20 << 20));
    assert_problem(&send(&server, "POST /v1/sandboxes", JSON, huge.as_bytes()).await, 413, "too_large", "a huge body");
    assert_problem(&send(&server, "GET /v1/nowhere", JSON, b"").await, 404, "not_found", "no such path");
    let method = send(&server, "PUT /v1/sandboxes", JSON, b"{}").await;
    assert_problem(&method, 405, "method_not_allowed", "no such method");
    for id in ["sb0000000000000000000000000", "nonsense", "..%2f..%2fetc", "%00", &"a".repeat(3000)] {
        let reply = send(&server, &format!("GET /v1/sandboxes/{id}"), JSON, b"").await;
        assert!(matches!(reply.status, 400 | 404), "{id}: {reply:?}");
    }
    let long = format!("X-Long: {}", "y".repeat(300_000));
    let reply = send_as(&server, "GET /health", &[&long], b"").await;
    assert!(matches!(reply.status, 400 | 413 | 431), "{reply:?}");
    assert_eq!(send_as(&server, "GET /health", &["Accept: */*"], b"").await.status, 200);
}

#[tokio::test]
async fn a_stopped_sandbox_takes_nothing_and_says_so() {
    let guest = Guest::new().await;
    let (server, id) = (shared(), guest.id().to_owned());
    guest.end().await;
    for (line, body) in [
        (format!("POST /v1/sandboxes/{id}/exec"), &br#"{"cmd": "true"}"#[..]),
        (format!("POST /v1/sandboxes/{id}/ping"), &b""[..]),
        (format!("POST /v1/sandboxes/{id}/files/read"), &br#"{"path": "/x"}"#[..]),
    ] {
        let reply = send(&server, &line, JSON, body).await;
        assert_problem(&reply, 409, "invalid_state", &line);
        assert_eq!(reply.json()["state"], "stopped", "{line}");
    }
    for body in [r#"{}"#, r#"{"cmd": ""}"#, r#"{"cmd": "a", "timeout_sec": -1}"#, r#"{"cmd": "a", "args": "b"}"#] {
        let reply = send(&server, &format!("POST /v1/sandboxes/{id}/exec"), JSON, body.as_bytes()).await;
        assert_problem(&reply, 400, "invalid_request", body);
    }
}

fn failed(output: &Output, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{text}");
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn a_port_in_use_and_a_bad_address_are_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let data = Data::new();
    let path = data.path();
    let up = |listen: &str| atoll(&["up", "--listen", listen, "--data"]).arg(&path).output().unwrap();
    failed(&up(&address), &[&address, "in use", "--listen"]);
    failed(&up("nonsense"), &["listen"]);
    assert!(data.remains(&[]).is_empty());
}

#[test]
fn a_data_directory_in_use_or_of_another_user_is_refused_by_name() {
    let server = Server::start();
    let path = server.data.path();
    let second = atoll(&["up", "--listen", "127.0.0.1:0", "--data"]).arg(&path).output().unwrap();
    failed(&second, &[path.to_str().unwrap(), "in use by a running Atoll"]);
    drop(server);
    let data = Data::new();
    std::fs::create_dir(data.path()).unwrap();
    nix::unistd::chown(&data.path(), Some(65534.into()), Some(65534.into())).unwrap();
    let foreign = atoll(&["up", "--listen", "127.0.0.1:0", "--data"]).arg(data.path()).output().unwrap();
    failed(&foreign, &[data.path().to_str().unwrap(), "belongs to uid 65534", "--data"]);
}

#[test]
fn without_root_it_says_what_to_do() {
    let data = Data::new();
    // A copy that everybody may run, because the build's own path may be closed to others.
    let copy = tempfile::Builder::new().prefix("atoll-e2e-").tempdir_in("/tmp").unwrap();
    let program = copy.path().join("atoll");
    std::fs::copy(crate::server::binary(), &program).unwrap();
    open(copy.path());
    let output = std::process::Command::new(&program)
        .args(["up", "--listen", "127.0.0.1:0", "--data"])
        .arg(copy.path().join("data"))
        .uid(65534)
        .gid(65534)
        .env_clear()
        .env("HOME", copy.path())
        .output()
        .unwrap();
    failed(&output, &["root", "sudo"]);
    drop(data);
}

fn open(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
}
