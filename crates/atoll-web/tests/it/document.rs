//! The OpenAPI document: committed, served, and the same as what is served.

use std::path::{Path, PathBuf};

use http::Method;
use serde_json::Value;

use crate::support::Service;

fn committed() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../openapi/atoll.json")
}

#[test]
fn the_committed_document_is_the_codes_own() {
    let mut written = atoll_web::openapi().to_pretty_json().unwrap();
    written.push('\n');
    if std::env::var_os("ATOLL_UPDATE_OPENAPI").is_some() {
        std::fs::write(committed(), &written).unwrap();
    }
    let kept = std::fs::read_to_string(committed()).unwrap_or_default();
    assert!(kept == written, "openapi/atoll.json is out of date: run this test with ATOLL_UPDATE_OPENAPI=1");
}

#[test]
fn operations_have_names_of_their_own_and_summaries() {
    let document = serde_json::to_value(atoll_web::openapi()).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
    let mut names = std::collections::BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let name = operation["operationId"].as_str().unwrap_or_else(|| panic!("{method} {path} has no name"));
            assert!(names.insert(name.to_owned()), "{name} twice");
            assert!(operation["summary"].is_string(), "{method} {path} has no summary");
        }
    }
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(document["components"]["schemas"].get(name).is_some(), "{name} is referred to and not there");
    }
}

#[tokio::test]
async fn every_documented_route_is_served() {
    let service = Service::start().await;
    let document = service.bare(Method::GET, "/openapi.json", &[], "").await.json();
    let mut count = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            let asked = path.replace("{id}", "sbx").replace("{process}", "x").replace("{name}", "x");
            let method: Method = method.to_ascii_uppercase().parse().unwrap();
            let answer = service.bare(method.clone(), &asked, &[], "").await;
            // Without a key: answered by the route itself, never by "no such route" or "another method".
            assert!(matches!(answer.status.as_u16(), 200 | 401), "{method} {path}: {answer:?}");
            count += 1;
        }
    }
    assert!(count > 40, "{count}");
}

/// Routes are registered through `routes!` alone, which documents what it serves; so whatever is served is documented.
#[test]
fn nothing_is_served_past_the_document() {
    let mut sources = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut read = 0;
    while let Some(path) = sources.pop() {
        if path.is_dir() {
            sources.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for past in [".route(", ".route_service(", ".nest_service(", ".fallback_service("] {
            assert!(!text.contains(past), "{} registers with {past}..), which documents nothing", path.display());
        }
        read += 1;
    }
    assert!(read > 10);
}

#[tokio::test]
async fn the_documentation_comes_whole_out_of_the_binary() {
    let service = Service::start().await;
    let page = service.bare(Method::GET, "/docs", &[], "").await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-security-policy").contains("default-src 'none'"), "{page:?}");
    let text = String::from_utf8(page.body.to_vec()).unwrap();
    for outside in ["src=", "http://", "https://", "<script", "@import", "url("] {
        assert!(!text.contains(outside), "{outside}");
    }
    for there in ["/v1/sandboxes/{id}/exec", "id=\"invalid_request\"", "CreateSandboxRequest"] {
        assert!(text.contains(there), "{there}");
    }
    let yaml = service.bare(Method::GET, "/openapi.yaml", &[], "").await;
    assert_eq!(yaml.header("content-type"), "application/yaml");
    assert!(yaml.body.starts_with(b"\"components\":"), "{:?}", yaml.body.slice(..40));
    let json = service.bare(Method::GET, "/openapi.json", &[], "").await.json();
    assert_eq!(json, serde_json::to_value(atoll_web::openapi()).unwrap_or(Value::Null));
}

/// What the clients of that family call for commands, files, terminals and processes.
#[test]
fn every_route_of_the_family_is_there_and_takes_what_its_clients_send() {
    let document: Value = serde_json::from_str(&std::fs::read_to_string(committed()).unwrap()).unwrap();
    let base = "/v1/capsules/{id}";
    for (method, path, fields) in [
        ("post", "/exec", &["cmd", "args", "background", "timeout_sec", "envs", "cwd", "tag"][..]),
        ("get", "/exec/stream", &[]),
        ("get", "/processes", &[]),
        ("delete", "/processes/{process}", &[]),
        ("get", "/processes/{process}/stream", &[]),
        ("post", "/files/read", &["path"]),
        ("post", "/files/write", &["path", "file"]),
        ("post", "/files/list", &["path", "depth"]),
        ("post", "/files/mkdir", &["path"]),
        ("post", "/files/remove", &["path"]),
        ("post", "/files/stream/write", &["path", "file"]),
        ("post", "/files/stream/read", &["path"]),
        ("get", "/pty", &[]),
    ] {
        let operation = &document["paths"][format!("{base}{path}")][method];
        assert!(operation.is_object(), "{method} {path} is not there");
        let body = operation["requestBody"]["content"].as_object().and_then(|kinds| kinds.values().next());
        for field in fields {
            let reference = body.unwrap()["schema"]["$ref"].as_str().unwrap();
            let name = reference.rsplit('/').next().unwrap();
            let properties = &document["components"]["schemas"][name]["properties"];
            assert!(properties.get(field).is_some(), "{method} {path} takes no `{field}`: {properties}");
        }
    }
    let frames = |name: &str| document["components"]["schemas"][name].to_string();
    for (name, kinds) in [
        ("ExecClientFrame", &["start", "stop"][..]),
        ("StreamFrame", &["start", "stdout", "stderr", "exit", "error"]),
        ("PtyClientFrame", &["start", "connect", "input", "resize", "kill", "pong"]),
        ("PtyFrame", &["started", "output", "exit", "error", "ping"]),
    ] {
        for kind in kinds {
            assert!(frames(name).contains(&format!("\"{kind}\"")), "{name} has no `{kind}`");
        }
    }
}
