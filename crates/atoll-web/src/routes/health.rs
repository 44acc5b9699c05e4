//! Whether Atoll answers.
//!
//! How it works: it needs no key and waits for nothing.
//!
//! Deliberately absent: the state of hosts and images.

use atoll_api::Health;
use axum::Json;
use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Web;

pub(super) fn routes() -> OpenApiRouter<Web> {
    OpenApiRouter::new().routes(routes!(health))
}

/// Says that Atoll is there.
#[utoipa::path(get, path = "/health", tag = "system", security(()), responses((status = 200, body = Health)))]
async fn health(State(web): State<Web>) -> Json<Health> {
    Json(Health { status: "ok".into(), version: web.version.into() })
}
