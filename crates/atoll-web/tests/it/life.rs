//! Pause, resume, limits and templates over REST, and how their refusals are said.

use atoll_domain::host::HostError;
use atoll_domain::snapshot::MemoryReason;
use http::Method;
use serde_json::{Value, json};

use crate::support::Service;

async fn patch(service: &Service, path: &str, body: Value) -> crate::support::Answer {
    service.call(Method::PATCH, path, &[("content-type", "application/json")], body.to_string()).await
}

#[tokio::test]
async fn a_sandbox_is_paused_and_resumed_under_both_names() {
    let (service, id) = Service::with_sandbox().await;
    for (base, life) in [("/v1/sandboxes", 2), ("/v1/capsules", 3)] {
        let paused = service.post(&format!("{base}/{id}/pause"), "").await;
        assert_eq!(paused.status, 200, "{paused:?}");
        let paused = paused.json();
        assert_eq!(paused["status"], "paused");
        let kept = &paused["paused"];
        assert_eq!((&kept["mode"], &kept["quiesced"], &kept["bytes"]), (&json!("memory"), &json!(true), &json!(4096)));
        assert!(kept["took_ms"].as_f64().is_some(), "how long it took: {kept}");
        assert_eq!(service.get(&format!("{base}/{id}")).await.json()["paused"]["took_ms"], Value::Null);
        let refused = service.post(&format!("{base}/{id}/exec"), r#"{"cmd":"true"}"#).await;
        assert_eq!(refused.problem(409, "invalid_state")["state"], "paused");
        assert_eq!(service.post(&format!("{base}/{id}/pause"), "{}").await.status, 200, "it is idempotent");
        let resumed = service.post(&format!("{base}/{id}/resume"), "").await;
        assert_eq!((resumed.status.as_u16(), &resumed.json()["status"]), (200, &json!("running")));
        assert_eq!(resumed.json()["paused"], Value::Null);
        assert_eq!(service.post(&format!("{base}/{id}/resume"), "").await.status, 200, "so is this");
        assert_eq!(service.shell(&id, "echo on").await["stdout"], "on\n");
        let events = service.get(&format!("{base}/{id}/events?limit=1")).await.json();
        assert_eq!((&events[0]["kind"], &events[0]["incarnation"]), (&json!("resumed"), &json!(life)));
    }
    let disk = service.post(&format!("/v1/sandboxes/{id}/pause"), r#"{"mode":"disk"}"#).await;
    assert_eq!(disk.json()["paused"]["mode"], "disk");
    let wrong = service.post(&format!("/v1/sandboxes/{id}/resume"), r#"{"mode":"both"}"#).await;
    assert_eq!(wrong.problem(400, "invalid_request")["errors"][0]["pointer"], "/mode");
    service.post("/v1/sandboxes/sb0/pause", "").await.problem(404, "not_found");
}

#[tokio::test]
async fn what_a_host_refuses_about_a_life_has_its_own_codes() {
    let (service, id) = Service::with_sandbox().await;
    let snapshot = json!({ "sandbox_id": id, "name": "warm" }).to_string();
    service.fail_next(HostError::AgentBusy);
    let busy = service.post("/v1/snapshots", snapshot.clone()).await.problem(409, "agent_busy");
    assert_eq!(busy["retryable"], true);
    service.post(&format!("/v1/sandboxes/{id}/pause"), "").await;
    service.fail_next(HostError::Unquiesced);
    service.post("/v1/snapshots", snapshot.clone()).await.problem(409, "unquiesced");
    service.fail_next(HostError::MemoryUnusable(MemoryReason::DiskOnly));
    let problem = service.post("/v1/snapshots", snapshot).await.problem(409, "memory_unusable");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("only the disk was kept") && detail.contains("while it runs"), "{detail}");
    let resume = format!("/v1/sandboxes/{id}/resume");
    let (was, is) = ("qemu 7.2.22".to_owned(), "qemu 8.2.0".to_owned());
    service.fail_next(HostError::MemoryUnusable(MemoryReason::Vmm { was, is }));
    let problem = service.post(&resume, "").await.problem(409, "memory_unusable");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("qemu 7.2.22") && detail.contains("mode `disk`"), "{detail}");
    service.fail_next(HostError::Damaged("state is shorter than it says".into()));
    service.post(&resume, "").await.problem(409, "damaged");
    service.fail_next(HostError::WrongState { state: "pausing".into() });
    assert_eq!(service.post(&resume, "").await.problem(409, "invalid_state")["state"], "pausing");
    service.fail_next(HostError::Unavailable("away".into()));
    service.post(&resume, "").await.problem(503, "host_unavailable");
    assert_eq!(service.post(&resume, "").await.status, 200);
}

#[tokio::test]
async fn a_machine_without_room_is_named_with_what_it_lacks_and_nothing_is_made() {
    let service = Service::start().await;
    let refused = async |body: Value| {
        let answer = service.post("/v1/sandboxes", body.to_string()).await;
        answer.problem(503, "no_capacity")["detail"].as_str().unwrap().to_owned()
    };
    service.set_room(|room| room.disk_free_mb = 575);
    let disk = refused(json!({ "timeout_sec": 60 })).await;
    assert!(disk.contains("disk_mb") && disk.contains("576") && disk.contains("575"), "{disk}");
    service.set_room(|room| room.available_mb = 300);
    let memory = refused(json!({})).await;
    assert!(memory.contains("memory_mb") && memory.contains("484") && memory.contains("300"), "{memory}");
    service.set_room(|room| room.available_mb = 400);
    assert_eq!(service.get("/v1/sandboxes").await.json(), json!([]));
    let small = service.post("/v1/sandboxes", json!({ "memory_mb": 128 }).to_string()).await;
    assert_eq!(small.status, 201, "{small:?}");
}

#[tokio::test]
async fn limits_are_given_at_create_and_changed_one_by_one() {
    let service = Service::start().await;
    let body = json!({ "timeout_sec": 60, "on_expiry": "destroy", "auto_resume": true, "max_lifetime_sec": 3600 });
    let made = service.post("/v1/sandboxes", body.to_string()).await.json();
    let path = format!("/v1/sandboxes/{}", made["id"].as_str().unwrap());
    for (field, value) in body.as_object().unwrap() {
        assert_eq!(&made[field], value, "{field}");
    }
    assert_eq!(made["end_at"], Value::Null);
    let end = (jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1)).to_string();
    let changed = patch(&service, &path, json!({ "end_at": end, "timeout_sec": 0 })).await;
    assert_eq!(changed.status, 200, "{changed:?}");
    let changed = changed.json();
    assert_eq!((&changed["timeout_sec"], &changed["on_expiry"]), (&json!(0), &json!("destroy")));
    assert!(changed["end_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(patch(&service, &path, json!({})).await.json()["end_at"], changed["end_at"], "absent stays");
    assert_eq!(
        patch(&service, &path, json!({ "end_at": null })).await.json()["end_at"],
        Value::Null,
        "null takes it away"
    );
    for (body, pointer) in [
        (json!({ "end_at": "tomorrow" }), "/end_at"),
        (json!({ "end_at": "2001-01-01T00:00:00Z" }), "/end_at"),
        (json!({ "timeout_sec": -1 }), "/timeout_sec"),
        (json!({ "on_expiry": "sleep" }), "/on_expiry"),
        (json!({ "max_lifetime_sec": 1_000_000_000_000_i64 }), "/max_lifetime_sec"),
    ] {
        let refused = patch(&service, &path, body).await.problem(400, "invalid_request");
        assert_eq!(refused["errors"][0]["pointer"], pointer, "{refused}");
    }
    let boot = service.post("/v1/sandboxes", json!({ "boot": "warm" }).to_string()).await;
    assert_eq!(boot.problem(400, "invalid_request")["errors"][0]["pointer"], "/boot");
}

#[tokio::test]
async fn templates_are_made_listed_overwritten_and_deleted() {
    let (service, id) = Service::with_sandbox().await;
    let body = json!({ "sandbox_id": id, "name": "warm" }).to_string();
    let made = service.post("/v1/snapshots", body.clone()).await;
    assert_eq!(made.status, 201, "{made:?}");
    let made = made.json();
    assert_eq!((&made["name"], &made["type"]), (&json!("warm"), &json!("snapshot")));
    assert_eq!((&made["size_bytes"], &made["stood_still_ms"]), (&json!(8192), &json!(1.5)));
    let taken = service.post("/v1/snapshots", body.clone()).await.problem(409, "conflict");
    assert!(taken["detail"].as_str().unwrap().contains("warm"));
    assert_eq!(service.post("/v1/snapshots?overwrite=true", body).await.status, 201);
    let list = service.get("/v1/snapshots?type=snapshot").await.json();
    assert_eq!((list.as_array().unwrap().len(), &list[0]["name"]), (1, &json!("warm")));
    assert_eq!(service.get("/v1/snapshots?type=base").await.json(), json!([]));
    service.get("/v1/snapshots?type=x").await.problem(400, "invalid_request");
    assert_eq!(service.get("/v1/snapshots/warm").await.json()["vcpus"], 1);
    let copy = service.post("/v1/sandboxes", r#"{"template":"warm"}"#).await;
    assert_eq!((copy.status.as_u16(), &copy.json()["template"]), (201, &json!("warm")));
    let wrong = service.post("/v1/sandboxes", r#"{"template":"warm","vcpus":2}"#).await;
    assert_eq!(wrong.problem(400, "invalid_request")["errors"][0]["pointer"], "/vcpus");
    service.fail_next(HostError::Failed("busy".into()));
    service.delete("/v1/snapshots/warm").await.problem(502, "agent_error");
    assert_eq!(service.get("/v1/snapshots/warm").await.status, 200, "files that cannot be removed keep it");
    assert_eq!(service.delete("/v1/snapshots/warm").await.status, 204);
    service.get("/v1/snapshots/warm").await.problem(404, "not_found");
    service.delete("/v1/snapshots/warm").await.problem(404, "not_found");
    service.post("/v1/snapshots", r#"{"name":"x"}"#).await.problem(400, "invalid_request");
    service.bare(Method::GET, "/v1/snapshots", &[], "").await.problem(401, "unauthorized");
}
