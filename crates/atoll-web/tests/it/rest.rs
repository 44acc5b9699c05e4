//! Sandboxes and commands over REST, and what is refused.

use atoll_domain::host::HostError;
use http::Method;
use serde_json::{Value, json};

use crate::support::{Service, eventually};

#[tokio::test]
async fn health_needs_no_key_and_names_the_version() {
    let service = Service::start().await;
    let answer = service.bare(Method::GET, "/health", &[], "").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json(), json!({ "status": "ok", "version": "0.0.0-test" }));
    service.shut_down().await;
}

#[tokio::test]
async fn a_sandbox_lives_and_ends_under_both_names() {
    let (service, id) = Service::with_sandbox().await;
    for base in ["/v1/sandboxes", "/v1/capsules"] {
        let one = service.get(&format!("{base}/{id}")).await;
        assert_eq!(one.status, 200);
        let one = one.json();
        let of = |name: &str| one[name].clone();
        assert_eq!((of("id"), of("status"), of("template")), (json!(id), json!("running"), json!("base")));
        assert_eq!((of("vcpus"), of("memory_mb"), of("disk_mb")), (json!(1), json!(512), json!(5120)));
        assert_eq!((of("timeout_sec"), of("network")), (json!(0), json!("internet")));
        assert_eq!(of("host"), Value::Null, "an API key does not see the host");
        for time in ["created_at", "started_at", "last_updated"] {
            assert!(one[time].as_str().is_some_and(|text| text.ends_with('Z')), "{time}: {one}");
        }
        let list = service.get(base).await.json();
        assert_eq!(list.as_array().unwrap().len(), 1, "a bare array: {list}");
        assert_eq!(service.post(&format!("{base}/{id}/ping"), "").await.status, 204);
    }
    for _ in 0..2 {
        assert_eq!(service.delete(&format!("/v1/capsules/{id}")).await.status, 204);
    }
    assert_eq!(service.get(&format!("/v1/sandboxes/{id}")).await.json()["status"], "stopped");
    assert_eq!(service.get("/v1/sandboxes").await.json(), json!([]));
    let problem = service.post(&format!("/v1/sandboxes/{id}/exec"), r#"{"cmd":"true"}"#).await;
    assert_eq!(problem.problem(409, "invalid_state")["state"], "stopped");
    service.post(&format!("/v1/sandboxes/{id}/ping"), "").await.problem(409, "invalid_state");
}

#[tokio::test]
async fn who_has_no_key_gets_nothing() {
    let (service, id) = Service::with_sandbox().await;
    let path = format!("/v1/sandboxes/{id}");
    let bearer = format!("Bearer {}", service.key);
    let other = service.key.replace("atoll_", "e2b_");
    for good in [("authorization", bearer.as_str()), ("x-api-key", other.as_str())] {
        assert_eq!(service.bare(Method::GET, &path, &[good], "").await.status, 200, "{good:?}");
    }
    let unknown = format!("atoll_{}", "0".repeat(40));
    for bad in [("x-api-key", "nonsense"), ("x-api-key", &unknown), ("authorization", "Basic abc"), ("accept", "*/*")] {
        let answer = service.bare(Method::GET, &path, &[bad], "").await;
        answer.problem(401, "unauthorized");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
}

#[tokio::test]
async fn files_of_the_host_are_named_by_its_owner_alone() {
    let service = Service::start().await;
    for field in ["kernel", "rootfs"] {
        let body = json!({ field: "/etc/shadow" }).to_string();
        let problem = service.post("/v1/sandboxes", body.clone()).await.problem(403, "forbidden");
        assert!(problem["detail"].as_str().unwrap().contains("socket"), "{problem}");
        assert_eq!(service.get("/v1/sandboxes").await.json(), json!([]), "nothing was begun");
        let body = json!({ field: "relative/path" }).to_string();
        let problem = service.local(Method::POST, "/v1/sandboxes", body).await.problem(400, "invalid_request");
        assert_eq!(problem["errors"][0]["pointer"], format!("/{field}"), "{problem}");
    }
    let both = json!({ "rootfs": "/x", "template": "other" }).to_string();
    let problem = service.local(Method::POST, "/v1/sandboxes", both).await.problem(400, "invalid_request");
    assert_eq!(problem["errors"][0]["pointer"], "/template", "{problem}");
    service.post("/v1/sandboxes", json!({ "template": "own" }).to_string()).await.problem(404, "not_found");
    let made = service.local(Method::POST, "/v1/sandboxes", json!({ "rootfs": "/x" }).to_string()).await;
    assert_eq!((made.status.as_u16(), &made.json()["template"]), (201, &json!("own")));
}

#[tokio::test]
async fn the_owner_needs_no_key_on_the_data_directorys_socket() {
    let (service, id) = Service::with_sandbox().await;
    let answer = service.local(Method::GET, &format!("/v1/sandboxes/{id}"), "").await;
    assert_eq!(answer.status, 200);
    let host = &answer.json()["host"];
    assert_eq!((&host["keeper_pid"], &host["vmm_pid"], &host["uid"]), (&json!(11), &json!(12), &json!(70_000)));
    assert_eq!((&host["namespace"], &host["interface"]), (&json!("atoll-one"), &json!("at-one")));
}

#[tokio::test]
async fn what_cannot_be_used_is_named() {
    let service = Service::start().await;
    let refused = [
        ("{", "", "not_json"),
        ("[]", "", "malformed"),
        (r#"{"vcpus":-1}"#, "/vcpus", "out_of_range"),
        (r#"{"vcpus":33}"#, "/vcpus", "out_of_range"),
        (r#"{"vcpus":"two"}"#, "/vcpus", "malformed"),
        (r#"{"memory_mb":99999999}"#, "/memory_mb", "out_of_range"),
        (r#"{"disk_mb":1}"#, "/disk_mb", "out_of_range"),
        (r#"{"timeout_sec":99999999999}"#, "/timeout_sec", "out_of_range"),
        (r#"{"network":"lan"}"#, "/network", "unknown"),
        (r#"{"template":"../etc"}"#, "/template", "malformed"),
        (r#"{"vcpu":1}"#, "/vcpu", "malformed"),
        (r#"{"envs":{"A B":"x"}}"#, "/envs", "malformed"),
        (r#"{"envs":{"A":1}}"#, "/envs/A", "malformed"),
    ];
    for (body, pointer, code) in refused {
        let answer = service.post("/v1/sandboxes", body).await;
        let problem = answer.problem(400, "invalid_request");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}: {problem}");
        assert_eq!(problem["errors"][0]["code"], code, "{body}: {problem}");
    }
    service.post("/v1/sandboxes", r#"{"template":"nope"}"#).await.problem(404, "not_found");
    service.get("/v1/sandboxes?limit=-1").await.problem(400, "invalid_request");
    service.get("/v1/sandboxes?limit=x").await.problem(400, "invalid_request");
    service.get("/v1/sandboxes?cursor=!").await.problem(400, "invalid_request");
    service.get("/v1/sandboxes/nope").await.problem(404, "not_found");
    service.get("/v1/nope").await.problem(404, "not_found");
    let wrong = service.call(Method::PUT, "/v1/sandboxes", &[], "").await;
    wrong.problem(405, "method_not_allowed");
    assert!(wrong.header("allow").contains("POST"), "{wrong:?}");
    let huge = format!(r#"{{"template":"{}"}}"#, "x".repeat(3 * 1024 * 1024));
    service.post("/v1/sandboxes", huge).await.problem(413, "too_large");
    assert_eq!(service.get("/v1/sandboxes").await.json(), json!([]), "nothing of it was made");
}

#[tokio::test]
async fn a_request_keeps_its_name() {
    let service = Service::start().await;
    let given = service.call(Method::GET, "/v1/nope", &[("x-request-id", "my-request_01")], "").await;
    assert_eq!(given.problem(404, "not_found")["request_id"], "my-request_01");
    let bad = service.call(Method::GET, "/v1/nope", &[("x-request-id", "no spaces!")], "").await;
    assert!(bad.header("x-request-id").starts_with("req-"), "{bad:?}");
}

#[tokio::test]
async fn a_secret_in_the_wrong_place_is_not_told_again() {
    let (service, id) = Service::with_sandbox().await;
    let (create, exec) = ("/v1/sandboxes".to_owned(), format!("/v1/sandboxes/{id}/exec"));
    for (path, body) in [
        (&create, r#"{"envs":"hunter2"}"#),
        (&create, r#"{"envs":"a, expected hunter2, expected b"}"#),
        (&create, r#"{"envs":{"TOKEN":["hunter2"]}}"#),
        (&create, r#"{"envs":{"TOKEN=hunter2":""}}"#),
        (&create, r#"{"envs":{"TOKEN":"hunter2\u0000"}}"#),
        (&create, r#"{"envs":{"TOKEN":"hunter2"#),
        (&create, r#"{"envs":{"TOKEN":hunter2}}"#),
        (&create, r#"{"vcpus":"hunter2"}"#),
        (&create, r#"{"metadata":{"a":{"hunter2":"hunter2"}}}"#),
        (&create, r#""hunter2""#),
        (&create, r#"["hunter2"]"#),
        (&create, r#"{} "hunter2""#),
        (&exec, r#"{"cmd":"true","args":"hunter2"}"#),
        (&exec, r#"{"cmd":"true","background":"hunter2"}"#),
        (&exec, r#"{"cmd":"true","envs":{"TOKEN":{"a":"hunter2"}}}"#),
    ] {
        let answer = service.post(path, body).await;
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        assert!(!String::from_utf8_lossy(&answer.body).contains("hunter2"), "{body}: {answer:?}");
    }
}

#[tokio::test]
async fn the_inside_of_a_host_stays_inside() {
    let (service, id) = Service::with_sandbox().await;
    service.fail_next(HostError::Failed("/secret/path: permission denied".into()));
    let answer = service.delete(&format!("/v1/sandboxes/{id}")).await;
    answer.problem(502, "agent_error");
    assert!(!String::from_utf8_lossy(&answer.body).contains("secret"), "{answer:?}");
    assert_eq!(service.get(&format!("/v1/sandboxes/{id}")).await.json()["status"], "running", "it keeps its state");
    for error in [HostError::Failed("/secret/path".into()), HostError::Unavailable("at /secret/socket".into())] {
        service.fail_next(error);
        let answer = service.post("/v1/sandboxes", "{}").await;
        assert!(answer.status.is_server_error(), "{answer:?}");
        assert!(!String::from_utf8_lossy(&answer.body).contains("secret"), "{answer:?}");
    }
    for path in [format!("/v1/sandboxes/{id}"), format!("/v1/sandboxes/{id}/events"), "/v1/sandboxes".into()] {
        let answer = service.get(&path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(!String::from_utf8_lossy(&answer.body).contains("secret"), "{answer:?}");
    }
    service.fail_next(HostError::MissingTool { what: "qemu".into(), remedy: "apt install qemu".into() });
    let problem = service.post("/v1/sandboxes", "{}").await.problem(503, "host_unavailable");
    assert!(problem["detail"].as_str().unwrap().contains("apt install qemu"), "{problem}");
    assert_eq!(problem["retryable"], false);
}

#[tokio::test]
async fn lists_come_in_pages() {
    let service = Service::start().await;
    for _ in 0..3 {
        assert_eq!(service.post("/v1/sandboxes", "").await.status, 201, "an empty body is {{}}");
    }
    let (mut path, mut seen, mut pages) = ("/v1/sandboxes?limit=2".to_owned(), Vec::new(), 0);
    loop {
        let page = service.get(&path).await;
        seen.extend(page.json().as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()));
        pages += 1;
        if page.header("x-next-cursor").is_empty() {
            assert_eq!(page.header("link"), "");
            break;
        }
        let link = page.header("link").to_owned();
        path = link.strip_prefix('<').and_then(|link| link.split_once('>')).unwrap().0.to_owned();
    }
    seen.sort();
    seen.dedup();
    assert_eq!((seen.len(), pages), (3, 2));
}

#[tokio::test]
async fn a_command_runs_as_it_was_asked_to() {
    let (service, id) = Service::with_sandbox().await;
    let path = format!("/v1/sandboxes/{id}/exec");
    let body = json!({ "cmd": "/bin/sh", "args": ["-c", "pwd; echo $COLOUR; id -un; echo no >&2; exit 3"],
        "cwd": service.dir.path(), "envs": { "COLOUR": "blue" } });
    let answer = service.post(&path, body.to_string()).await.json();
    assert_eq!(answer["stdout"], format!("{}\nblue\nroot\n", service.dir.path().display()));
    assert_eq!((&answer["stderr"], &answer["exit_code"]), (&json!("no\n"), &json!(3)));
    assert_eq!(
        (&answer["encoding"], &answer["sandbox_id"], &answer["cmd"]),
        (&json!("utf-8"), &json!(id), &json!("/bin/sh"))
    );
    let binary = service.shell(&id, r"printf '\377\376'; echo text >&2").await;
    assert_eq!(
        (&binary["encoding"], &binary["stdout"], &binary["stderr"]),
        (&json!("base64"), &json!("//4="), &json!("dGV4dAo="))
    );
    let missing = service.post(&path, r#"{"cmd":"no-such-program"}"#).await.json();
    assert_eq!(missing["exit_code"], 127);
    assert!(missing["stderr"].as_str().unwrap().contains("no-such-program"), "{missing}");
    let user = service.post(&path, r#"{"cmd":"id","args":["-un"],"user":"nobody","cwd":"/"}"#).await.json();
    assert_eq!(user["stdout"], "nobody\n");
    for (body, pointer) in [
        (json!({ "cmd": "pwd", "cwd": "/no/such/directory" }), "/cwd"),
        (json!({ "cmd": "id", "user": "nobody-knows" }), "/user"),
        (json!({ "cmd": "" }), "/cmd"),
        (json!({ "cmd": "true", "timeout_sec": -1 }), "/timeout_sec"),
        (json!({ "cmd": "true", "tag": "x" }), "/tag"),
    ] {
        let problem = service.post(&path, body.to_string()).await.problem(400, "invalid_request");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
    let late = service.post(&path, r#"{"cmd":"sleep","args":["100"],"timeout_sec":1}"#).await;
    late.problem(504, "timeout");
}

#[tokio::test]
async fn a_command_in_the_background_is_found_and_killed() {
    let (service, id) = Service::with_sandbox().await;
    let (exec, processes) = (format!("/v1/sandboxes/{id}/exec"), format!("/v1/sandboxes/{id}/processes"));
    let body = json!({ "cmd": "sleep", "args": ["1000"], "background": true, "tag": "nap" });
    let started = service.post(&exec, body.to_string()).await;
    assert_eq!(started.status, 202);
    let started = started.json();
    assert_eq!(
        (&started["sandbox_id"], &started["cmd"], &started["tag"]),
        (&json!(id), &json!("sleep"), &json!("nap"))
    );
    let listed = service.get(&processes).await.json();
    assert_eq!(listed["processes"][0]["pid"], started["pid"]);
    assert_eq!(listed["processes"][0]["args"], json!(["1000"]));
    service.post(&exec, body.to_string()).await.problem(409, "conflict");
    let unnamed = service.post(&exec, r#"{"cmd":"sleep","args":["1000"],"background":true}"#).await.json();
    assert!(unnamed["tag"].as_str().unwrap().starts_with("proc-"), "{unnamed}");
    service.delete(&format!("{processes}/nap?signal=SIGNOPE")).await.problem(400, "invalid_request");
    assert_eq!(service.delete(&format!("{processes}/nap?signal=SIGTERM")).await.status, 204);
    assert_eq!(service.delete(&format!("{processes}/{}", unnamed["pid"])).await.status, 204);
    eventually("nothing runs", async || service.get(&processes).await.json()["processes"] == json!([])).await;
    service.delete(&format!("{processes}/nap")).await.problem(404, "not_found");
    service.delete(&format!("{processes}/999999")).await.problem(404, "not_found");
    let bad = json!({ "cmd": "true", "background": true, "cwd": "/no/such" });
    service.post(&exec, bad.to_string()).await.problem(400, "invalid_request");
    let gone = json!({ "cmd": "no-such-program", "background": true });
    service.post(&exec, gone.to_string()).await.problem(400, "invalid_request");
}

#[tokio::test]
async fn a_request_under_way_ends_before_the_service_does() {
    let (service, id) = Service::with_sandbox().await;
    let mark = service.dir.path().join("begun");
    let line = format!("touch {0}; while [ -e {0} ]; do sleep 0.05; done; echo done", mark.display());
    let exec = service.shell(&id, &line);
    let stop = async {
        eventually("it runs", async || mark.exists()).await;
        service.begin_stop();
        std::fs::remove_file(&mark).unwrap();
    };
    let (answer, ()) = tokio::join!(exec, stop);
    assert_eq!(answer["stdout"], "done\n");
    service.shut_down().await;
}

#[tokio::test]
async fn metrics_count_requests_by_route() {
    let (service, id) = Service::with_sandbox().await;
    service.get(&format!("/v1/sandboxes/{id}")).await;
    service.bare(Method::GET, "/metrics", &[], "").await.problem(401, "unauthorized");
    let page = service.get("/metrics").await;
    let page = String::from_utf8(page.body.to_vec()).unwrap();
    assert!(page.contains("atoll_sandboxes{status=\"running\"} 1"), "{page}");
    assert!(page.contains("_count{route=\"/v1/sandboxes/{id}\",method=\"GET\",status=\"200\"}"), "{page}");
    assert!(!page.contains(&id), "{page}");
}

#[tokio::test]
async fn a_create_under_a_key_makes_one_sandbox() {
    let service = Service::start().await;
    let create = async |key: &str, body: &str| {
        service.call(Method::POST, "/v1/sandboxes", &[("idempotency-key", key)], body.to_owned()).await
    };
    let first = create("k-1", r#"{"vcpus":1,"memory_mb":256}"#).await;
    assert_eq!((first.status.as_u16(), first.header("idempotency-replayed")), (201, ""));
    let again = create("k-1", r#"{ "memory_mb": 256, "vcpus": 1 }"#).await;
    assert_eq!((again.status.as_u16(), again.header("idempotency-replayed")), (201, "true"));
    assert_eq!(again.json()["id"], first.json()["id"]);
    create("k-1", r#"{"vcpus":2}"#).await.problem(422, "idempotency_mismatch");
    let other = create("k-2", r#"{"vcpus":1,"memory_mb":256}"#).await;
    assert_ne!(other.json()["id"], first.json()["id"]);
    create("", "{}").await.problem(400, "invalid_request");
    create(&"k".repeat(300), "{}").await.problem(400, "invalid_request");
    service.fail_next(HostError::Failed("no".into()));
    create("k-3", "{}").await.problem(502, "agent_error");
    assert_eq!(create("k-3", "{}").await.status, 201, "a create that failed gives its key back");
    let gate = service.hold_next_create();
    let (slow, quick) = tokio::join!(create("k-4", "{}"), async {
        eventually("the first is under way", async || gate.reached()).await;
        let quick = create("k-4", "{}").await;
        gate.open();
        quick
    });
    assert_eq!(slow.status, 201);
    assert_eq!(quick.problem(409, "in_progress")["retryable"], true);
    assert_eq!(service.get("/v1/sandboxes").await.json().as_array().unwrap().len(), 4);
}

#[tokio::test]
async fn a_background_process_under_a_key_is_started_once() {
    let (service, id) = Service::with_sandbox().await;
    let path = format!("/v1/sandboxes/{id}/exec");
    let start = async |key: &str, body: Value| {
        service.call(Method::POST, &path, &[("idempotency-key", key)], body.to_string()).await
    };
    let nap = json!({ "cmd": "sleep", "args": ["1000"], "background": true });
    let first = start("k", nap.clone()).await;
    let again = start("k", nap).await;
    assert_eq!((first.status.as_u16(), again.status.as_u16()), (202, 202));
    assert_eq!((first.header("idempotency-replayed"), again.header("idempotency-replayed")), ("", "true"));
    assert_eq!(first.json(), again.json());
    start("k", json!({ "cmd": "true", "background": true })).await.problem(422, "idempotency_mismatch");
    let listed = service.get(&format!("/v1/sandboxes/{id}/processes")).await.json();
    assert_eq!(listed["processes"].as_array().unwrap().len(), 1, "{listed}");
    let bad = json!({ "cmd": "no-such-program", "background": true });
    start("j", bad.clone()).await.problem(400, "invalid_request");
    start("j", bad).await.problem(400, "invalid_request");
    service.delete(&format!("/v1/sandboxes/{id}/processes/{}", first.json()["tag"].as_str().unwrap())).await;
}

#[tokio::test]
async fn while_a_start_under_a_key_is_under_way_the_key_starts_nothing_else() {
    let (service, id) = Service::with_sandbox().await;
    let path = format!("/v1/sandboxes/{id}/exec");
    let start =
        async |body: &Value| service.call(Method::POST, &path, &[("idempotency-key", "k")], body.to_string()).await;
    let nap = json!({ "cmd": "sleep", "args": ["1000"], "background": true });
    let gate = service.hold_next_stream();
    let (first, ()) = tokio::join!(start(&nap), async {
        eventually("the start is under way", async || gate.reached()).await;
        assert_eq!(start(&nap).await.problem(409, "in_progress")["retryable"], true);
        let other = json!({ "cmd": "sleep", "args": ["2000"], "background": true });
        start(&other).await.problem(422, "idempotency_mismatch");
        gate.open();
    });
    assert_eq!((first.status.as_u16(), first.header("idempotency-replayed")), (202, ""));
    let again = start(&nap).await;
    assert_eq!((again.status.as_u16(), again.header("idempotency-replayed")), (202, "true"));
    assert_eq!(again.json(), first.json());
    let processes = format!("/v1/sandboxes/{id}/processes");
    let listed = service.get(&processes).await.json();
    assert_eq!(listed["processes"].as_array().unwrap().len(), 1, "{listed}");
    service.delete(&format!("{processes}/{}", first.json()["pid"])).await;
}

#[tokio::test]
async fn a_start_whose_answer_was_lost_is_found_under_its_key_and_not_repeated() {
    let (service, id) = Service::with_sandbox().await;
    let path = format!("/v1/sandboxes/{id}/exec");
    let start = async |key: &str, body: &Value| {
        service.call(Method::POST, &path, &[("idempotency-key", key)], body.to_string()).await
    };
    for (key, then) in [("ended", "exit 3"), ("lives", "exec sleep 1000")] {
        let proof = service.dir.path().join(key);
        let line = format!("echo $$ >> {}; {then}", proof.display());
        let body = json!({ "cmd": "/bin/sh", "args": ["-c", line], "background": true });
        service.lose_next_start();
        start(key, &body).await.problem(502, "agent_error");
        // It may end before it is asked for again: then the list of what runs does not know it.
        let listed = async || service.get(&format!("/v1/sandboxes/{id}/processes")).await.json()["processes"].clone();
        let lives = then.starts_with("exec");
        eventually("it has done its work", async || {
            std::fs::read_to_string(&proof).is_ok_and(|text| text.ends_with('\n'))
                && (lives || listed().await == json!([]))
        })
        .await;
        let again = start(key, &body).await;
        assert_eq!((again.status.as_u16(), again.header("idempotency-replayed")), (202, "true"), "{again:?}");
        let third = start(key, &body).await;
        assert_eq!(third.json(), again.json());
        let did = std::fs::read_to_string(&proof).unwrap();
        assert_eq!(did.trim(), again.json()["pid"].to_string(), "it was started once");
        if lives {
            let tag = again.json()["tag"].as_str().unwrap().to_owned();
            assert_eq!(service.delete(&format!("/v1/sandboxes/{id}/processes/{tag}")).await.status, 204);
        }
    }
}

#[tokio::test]
async fn an_agent_without_operations_is_asked_what_runs_and_starts_nothing_again_for_a_while() {
    let (service, id) = Service::with_sandbox().await;
    service.age_agent();
    let path = format!("/v1/sandboxes/{id}/exec");
    let start = async |key: &str, body: &Value| {
        service.call(Method::POST, &path, &[("idempotency-key", key)], body.to_string()).await
    };
    let listed = async || service.get(&format!("/v1/sandboxes/{id}/processes")).await.json()["processes"].clone();
    let lives = json!({ "cmd": "sleep", "args": ["1000"], "background": true });
    service.lose_next_start();
    start("lives", &lives).await.problem(502, "agent_error");
    let again = start("lives", &lives).await;
    assert_eq!((again.status.as_u16(), again.header("idempotency-replayed")), (202, "true"), "{again:?}");
    assert_eq!(listed().await.as_array().unwrap().len(), 1);
    let tag = again.json()["tag"].as_str().unwrap().to_owned();
    assert_eq!(service.delete(&format!("/v1/sandboxes/{id}/processes/{tag}")).await.status, 204);
    eventually("its end", async || listed().await == json!([])).await;
    let ends = json!({ "cmd": "true", "background": true });
    service.lose_next_start();
    start("ends", &ends).await.problem(502, "agent_error");
    eventually("its end", async || listed().await == json!([])).await;
    start("ends", &ends).await.problem(409, "in_progress");
}

#[tokio::test]
async fn of_two_starts_with_one_tag_one_is_refused() {
    let (service, id) = Service::with_sandbox().await;
    let path = format!("/v1/sandboxes/{id}/exec");
    let body = json!({ "cmd": "sleep", "args": ["1000"], "background": true, "tag": "one" }).to_string();
    for _ in 0..10 {
        let starts = (0..4).map(|_| service.post(&path, body.clone()));
        let answers = futures_util::future::join_all(starts).await;
        let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status.as_u16()).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, [202, 409, 409, 409]);
        let listed = service.get(&format!("/v1/sandboxes/{id}/processes")).await.json();
        assert_eq!(listed["processes"].as_array().unwrap().len(), 1, "{listed}");
        assert_eq!(service.delete(&format!("/v1/sandboxes/{id}/processes/one")).await.status, 204);
        eventually("its end", async || {
            service.get(&format!("/v1/sandboxes/{id}/processes")).await.json()["processes"] == json!([])
        })
        .await;
    }
}

#[tokio::test]
async fn logs_are_the_consoles_bytes_as_plain_text() {
    let (service, id) = Service::with_sandbox().await;
    let all = service.get(&format!("/v1/sandboxes/{id}/logs")).await;
    assert_eq!((all.status.as_u16(), all.header("content-type")), (200, "text/plain; charset=utf-8"));
    assert_eq!(all.header("x-content-type-options"), "nosniff");
    assert!(all.body.starts_with(b"[    0.1] kernel") && all.body.contains(&0xff), "{all:?}");
    let agent = service.get(&format!("/v1/sandboxes/{id}/logs?source=agent")).await;
    assert_eq!(agent.body, "atoll: agent listens\r\n");
    service.get(&format!("/v1/sandboxes/{id}/logs?source=x")).await.problem(400, "invalid_request");
    service.delete(&format!("/v1/sandboxes/{id}")).await;
    service.get(&format!("/v1/sandboxes/{id}/logs")).await.problem(409, "invalid_state");
}
