//! Files: multipart in, bytes out, and the tree.

use http::Method;
use serde_json::json;

use crate::support::{Answer, Service};

const BOUNDARY: &str = "----atoll-test";
const MULTIPART: (&str, &str) = ("content-type", "multipart/form-data; boundary=----atoll-test");

pub(crate) fn part(name: &str, content: &[u8]) -> Vec<u8> {
    let head = if name == "file" { "; filename=\"upload\"" } else { "" };
    let mut part =
        format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"{head}\r\n\r\n").into_bytes();
    part.extend_from_slice(content);
    part.extend_from_slice(b"\r\n");
    part
}

pub(crate) fn form(parts: &[Vec<u8>]) -> Vec<u8> {
    [parts.concat(), format!("--{BOUNDARY}--\r\n").into_bytes()].concat()
}

pub(crate) async fn write(service: &Service, id: &str, how: &str, body: Vec<u8>) -> Answer {
    service.call(Method::POST, &format!("/v1/sandboxes/{id}/files/{how}"), &[MULTIPART], body).await
}

async fn read(service: &Service, id: &str, path: &str) -> Answer {
    service.post(&format!("/v1/sandboxes/{id}/files/read"), json!({ "path": path }).to_string()).await
}

#[tokio::test]
async fn bytes_come_back_as_they_went() {
    let (service, id) = Service::with_sandbox().await;
    let path = service.dir.path().join("a/b/data.bin").display().to_string();
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    for how in ["write", "stream/write"] {
        let body = form(&[part("path", path.as_bytes()), part("file", &content)]);
        assert_eq!(write(&service, &id, how, body).await.status, 204);
        let back = read(&service, &id, &path).await;
        assert_eq!(back.status, 200);
        assert_eq!(back.header("content-type"), "application/octet-stream");
        assert!(back.body == content, "{how}: {} bytes", back.body.len());
    }
    let stream = format!("/v1/sandboxes/{id}/files/stream/read");
    assert!(service.post(&stream, json!({ "path": path }).to_string()).await.body == content);
}

#[tokio::test]
async fn a_small_file_may_come_before_its_path() {
    let (service, id) = Service::with_sandbox().await;
    let path = service.dir.path().join("early").display().to_string();
    let body = form(&[part("file", b"early bird"), part("path", path.as_bytes())]);
    assert_eq!(write(&service, &id, "write", body).await.status, 204);
    assert_eq!(read(&service, &id, &path).await.body, "early bird");
    let large = vec![b'x'; 2 * 1024 * 1024];
    let body = form(&[part("file", &large), part("path", path.as_bytes())]);
    let problem = write(&service, &id, "write", body).await.problem(400, "invalid_request");
    assert!(problem["detail"].as_str().unwrap().contains("before"), "{problem}");
}

#[tokio::test]
async fn a_form_that_is_none_is_refused() {
    let (service, id) = Service::with_sandbox().await;
    let path = service.dir.path().join("x").display().to_string();
    for (body, pointer) in [
        (form(&[part("file", b"x")]), "/path"),
        (form(&[part("path", path.as_bytes())]), "/file"),
        (form(&[part("path", path.as_bytes()), part("mode", b"0644")]), "/mode"),
        (form(&[part("path", path.as_bytes()), part("file", b"1"), part("file", b"2")]), "/file"),
        (form(&[part("path", b""), part("file", b"1")]), "/path"),
    ] {
        let problem = write(&service, &id, "write", body).await.problem(400, "invalid_request");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
    let cut = [part("path", path.as_bytes()), b"--".to_vec()].concat();
    write(&service, &id, "write", cut).await.problem(400, "invalid_request");
    let endless_head = [b"------atoll-test\r\nX: ".to_vec(), vec![b'x'; 8 * 1024 * 1024]].concat();
    write(&service, &id, "stream/write", endless_head).await.problem(400, "invalid_request");
    let answer = service.post(&format!("/v1/sandboxes/{id}/files/write"), "{}").await;
    answer.problem(415, "unsupported_media_type");
}

#[tokio::test]
async fn a_body_above_the_cap_is_too_large_and_the_stream_has_no_such_cap() {
    let (service, id) = Service::with_sandbox().await;
    let path = service.dir.path().join("large").display().to_string();
    let content = vec![7; 101 * 1024 * 1024];
    let body = form(&[part("path", path.as_bytes()), part("file", &content)]);
    write(&service, &id, "write", body.clone()).await.problem(413, "too_large");
    assert_eq!(write(&service, &id, "stream/write", body).await.status, 204);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), content.len() as u64);
}

#[tokio::test]
async fn the_tree_is_made_listed_moved_and_removed() {
    let (service, id) = Service::with_sandbox().await;
    let call = async |what: &str, body: serde_json::Value| {
        service.post(&format!("/v1/sandboxes/{id}/files/{what}"), body.to_string()).await
    };
    let root = service.dir.path().join("tree").display().to_string();
    let at = |name: &str| format!("{root}/{name}");
    let made = call("mkdir", json!({ "path": at("one") })).await.json();
    assert_eq!((&made["entry"]["type"], &made["entry"]["path"]), (&json!("directory"), &json!(at("one"))));
    call("mkdir", json!({ "path": at("one") })).await.problem(409, "conflict");
    std::fs::write(at("one/file"), "12345").unwrap();
    std::os::unix::fs::symlink("/nowhere", at("link")).unwrap();
    let listed = call("list", json!({ "path": root })).await.json();
    let mut kinds: Vec<_> =
        listed["entries"].as_array().unwrap().iter().map(|e| (e["name"].clone(), e["type"].clone())).collect();
    kinds.sort_by_key(|(name, _)| name.to_string());
    assert_eq!(kinds, [(json!("link"), json!("symlink")), (json!("one"), json!("directory"))]);
    let deep = call("list", json!({ "path": root, "depth": 2 })).await.json();
    assert_eq!(deep["entries"].as_array().unwrap().len(), 3, "{deep}");
    let stat = call("stat", json!({ "path": at("one/file") })).await.json();
    assert_eq!((&stat["entry"]["size"], &stat["entry"]["owner"]), (&json!(5), &json!("root")));
    assert!(stat["entry"]["modified_at"].as_i64().is_some_and(|at| at > 1_600_000_000), "{stat}");
    let moved = call("move", json!({ "source": at("one/file"), "destination": at("two") })).await;
    assert_eq!(moved.json()["entry"]["path"], at("two"));
    call("stat", json!({ "path": at("one/file") })).await.problem(404, "not_found");
    call("list", json!({ "path": at("none") })).await.problem(404, "not_found");
    call("list", json!({ "path": root, "depth": -1 })).await.problem(400, "invalid_request");
    for name in ["link", "two", "one"] {
        assert_eq!(call("remove", json!({ "path": at(name) })).await.status, 204, "{name}");
    }
    call("remove", json!({ "path": at("one") })).await.problem(404, "not_found");
    assert_eq!(call("list", json!({ "path": root })).await.json(), json!({ "entries": [] }));
}
