//! What a sandbox used and what happened to it.
//!
//! How it works: queries are checked by the control plane, answers written in the API's types.
//!
//! Deliberately absent: metrics of Atoll itself (`system.rs`).

use atoll_api::{Problem, SandboxEvent, SandboxMetrics};
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::caller::Caller;
use crate::error::WebError;
use crate::extract::{Path, Query};
use crate::{Web, render};

pub(super) fn routes() -> OpenApiRouter<Web> {
    OpenApiRouter::new().routes(routes!(metrics)).routes(routes!(events))
}

/// How far back.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct RangeQuery {
    /// `10m` (the default), `2h` or `24h`.
    range: Option<String>,
}

/// What a sandbox used: live while it runs, from the record while it is paused; 404 otherwise.
#[utoipa::path(
    get, path = "/{id}/metrics", operation_id = "sandbox_metrics", tag = "sandboxes",
    params(("id" = String, Path, description = "the sandbox"), RangeQuery),
    responses(
        (status = 200, body = SandboxMetrics),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn metrics(
    State(web): State<Web>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Query(query): Query<RangeQuery>,
) -> Result<axum::Json<SandboxMetrics>, WebError> {
    let metrics = web.control.sandbox_metrics(&caller, &id, query.range.as_deref()).await?;
    Ok(axum::Json(render::metrics(id, metrics)))
}

/// How many.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct EventsQuery {
    /// Most items of the answer: 50 by default, 200 at most; more counts as 200.
    limit: Option<i64>,
}

/// What happened to a sandbox, with times and reasons, the newest first; also after its end.
#[utoipa::path(
    get, path = "/{id}/events", operation_id = "sandbox_events", tag = "sandboxes",
    params(("id" = String, Path, description = "the sandbox"), EventsQuery),
    responses(
        (status = 200, body = Vec<SandboxEvent>),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn events(
    State(web): State<Web>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Query(query): Query<EventsQuery>,
) -> Result<axum::Json<Vec<SandboxEvent>>, WebError> {
    let history = web.control.sandbox_history(&caller, &id, query.limit).await?;
    Ok(axum::Json(history.into_iter().map(render::event).collect()))
}
