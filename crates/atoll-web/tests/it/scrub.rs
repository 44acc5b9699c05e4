//! Reading everything again over REST.

use atoll_domain::host::HostError;
use atoll_domain::scrub::{Damage, DamageKind};
use http::Method;
use serde_json::json;

use crate::support::Service;

#[tokio::test]
async fn what_is_damaged_is_told_to_the_owner_alone() {
    let (service, id) = Service::with_sandbox().await;
    let path = "/v1/scrub";
    let problem = service.post(path, "").await.problem(403, "forbidden");
    assert!(problem["detail"].as_str().unwrap().contains("socket"), "{problem}");
    service.bare(Method::POST, path, &[], "").await.problem(401, "unauthorized");
    let clean = service.local(Method::POST, path, "").await;
    assert_eq!((clean.status.as_u16(), clean.json()), (200, json!({ "files": 12, "bytes": 34_567, "damaged": [] })));
    let body = json!({ "sandbox_id": id, "name": "warm" }).to_string();
    assert_eq!(service.post("/v1/snapshots", body).await.status, 201);
    let damage = |kind, id: &str, reason: &str| Damage { kind, id: id.into(), reason: reason.into() };
    let template = service.last_template();
    service.spoil(vec![
        damage(DamageKind::Template, &template, "memory.raw: it does not hold what it must"),
        damage(DamageKind::Golden, "base-1x512-0", "manifest.json: it is another's"),
        damage(DamageKind::Sandbox, &id, "state: cannot open it"),
    ]);
    let found = service.local(Method::POST, path, "").await.json();
    let expected = json!([
        { "kind": "template", "id": template, "name": "warm", "reason": "memory.raw: it does not hold what it must" },
        { "kind": "golden", "id": "base-1x512-0", "reason": "manifest.json: it is another's" },
        { "kind": "sandbox", "id": id, "reason": "state: cannot open it" },
    ]);
    assert_eq!(found["damaged"], expected);
    service.fail_next(HostError::Unavailable("the host agent is stopping".into()));
    service.local(Method::POST, path, "").await.problem(503, "host_unavailable");
    service.local(Method::GET, path, "").await.problem(405, "method_not_allowed");
}
