//! How much a command and a path may hold: what is beyond is refused by its field and its limit, before anything runs.

use serde_json::{Value, json};

use crate::support::Service;

/// Bodies of an exec: what must be refused, with the field and the limit that are named.
fn beyond() -> Vec<(Value, &'static str, &'static str)> {
    let envs = |count: usize, length: usize| -> Value {
        (0..count).map(|n| (format!("V{n}"), json!("x".repeat(length)))).collect::<serde_json::Map<_, _>>().into()
    };
    vec![
        (json!({ "cmd": "" }), "/cmd", "program"),
        (json!({ "cmd": "x".repeat(4097) }), "/cmd", "4096"),
        (json!({ "cmd": "true", "args": vec![""; 1025] }), "/args", "1024"),
        (json!({ "cmd": "true", "args": ["x".repeat(128 * 1024)] }), "/args", "131072"),
        (json!({ "cmd": "true", "envs": envs(257, 1) }), "/envs", "256"),
        (json!({ "cmd": "true", "envs": envs(1, 64 * 1024) }), "/envs", "65536"),
        (json!({ "cmd": "true", "user": "u".repeat(33) }), "/user", "32"),
        (json!({ "cmd": "true", "cwd": format!("/{}", "d".repeat(4096)) }), "/cwd", "4096"),
        (json!({ "cmd": "true", "timeout_sec": 86_401 }), "/timeout_sec", "86400"),
    ]
}

/// Bodies that are as large as may be, and run.
fn within() -> Vec<Value> {
    let envs: serde_json::Map<_, _> = (0..256).map(|n| (format!("V{n}"), json!("x".repeat(200)))).collect();
    vec![
        json!({ "cmd": "true", "args": vec![""; 1024] }),
        json!({ "cmd": "true", "args": ["x".repeat(128 * 1024 - 5)] }),
        json!({ "cmd": "true", "envs": envs }),
        json!({ "cmd": "true", "cwd": format!("/{}tmp", "./".repeat(2045)), "timeout_sec": 86_400 }),
    ]
}

#[tokio::test]
async fn a_command_beyond_a_bound_is_refused_by_field_and_limit() {
    let (service, id) = Service::with_sandbox().await;
    let path = format!("/v1/sandboxes/{id}/exec");
    for background in [false, true] {
        for (mut body, field, limit) in beyond() {
            body["background"] = background.into();
            let shown: String = body.to_string().chars().take(80).collect();
            let problem = service.post(&path, body.to_string()).await.problem(400, "invalid_request");
            let error = &problem["errors"][0];
            assert_eq!(error["pointer"], field, "{shown}: {problem}");
            assert!(error["detail"].as_str().unwrap().contains(limit), "{shown}: {problem}");
        }
    }
    let tagged = json!({ "cmd": "true", "background": true, "tag": "t".repeat(65) });
    let problem = service.post(&path, tagged.to_string()).await.problem(400, "invalid_request");
    assert_eq!(problem["errors"][0]["pointer"], "/tag", "{problem}");
    assert!(problem["errors"][0]["detail"].as_str().unwrap().contains("64"), "{problem}");
    let listed = service.get(&format!("/v1/sandboxes/{id}/processes")).await.json();
    assert_eq!(listed["processes"], json!([]), "nothing was started");
    for body in within() {
        let shown: String = body.to_string().chars().take(80).collect();
        let done = service.post(&path, body.to_string()).await;
        assert_eq!((done.status.as_u16(), &done.json()["exit_code"]), (200, &json!(0)), "{shown}: {done:?}");
    }
}

#[tokio::test]
async fn a_path_beyond_its_bound_is_refused_by_field_and_limit() {
    let (service, id) = Service::with_sandbox().await;
    let long = format!("/{}", "p".repeat(4096));
    for (route, body, field) in [
        ("files/list", json!({ "path": long }), "/path"),
        ("files/stat", json!({ "path": long }), "/path"),
        ("files/mkdir", json!({ "path": long }), "/path"),
        ("files/remove", json!({ "path": long }), "/path"),
        ("files/read", json!({ "path": long }), "/path"),
        ("files/move", json!({ "source": long, "destination": "/tmp/x" }), "/source"),
        ("files/move", json!({ "source": "/tmp/x", "destination": long }), "/destination"),
    ] {
        let answer = service.post(&format!("/v1/sandboxes/{id}/{route}"), body.to_string()).await;
        let problem = answer.problem(400, "invalid_request");
        assert_eq!(problem["errors"][0]["pointer"], field, "{route}: {problem}");
        assert!(problem["errors"][0]["detail"].as_str().unwrap().contains("4096"), "{route}: {problem}");
    }
}
