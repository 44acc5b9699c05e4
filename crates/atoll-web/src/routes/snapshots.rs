//! Templates that teams make of their sandboxes.
//!
//! How it works: bodies and queries become the control plane's input, its records the API's types.
//!
//! Deliberately absent: contents of templates.

use atoll_api::{CreateSnapshotRequest, Problem, Snapshot};
use atoll_control::snapshots::SnapshotInput;
use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::caller::Caller;
use crate::error::WebError;
use crate::extract::{Json, Path, Query};
use crate::{Web, render};

pub(super) fn routes() -> OpenApiRouter<Web> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(get, delete))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct OverwriteQuery {
    /// Whether a template of that name gives way, once the new one stands; otherwise it is 409.
    #[serde(default)]
    overwrite: bool,
}

/// Makes a template of a running or paused sandbox, which returns to the state that it had.
#[utoipa::path(
    post, path = "", operation_id = "create_snapshot", tag = "snapshots",
    params(OverwriteQuery),
    request_body = CreateSnapshotRequest,
    responses(
        (status = 201, body = Snapshot),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn create(
    State(web): State<Web>,
    Caller(caller): Caller,
    Query(query): Query<OverwriteQuery>,
    Json(request): Json<CreateSnapshotRequest>,
) -> Result<(StatusCode, axum::Json<Snapshot>), WebError> {
    let CreateSnapshotRequest { sandbox_id, name } = request;
    let input = SnapshotInput { sandbox_id, name, overwrite: query.overwrite };
    let made = web.control.create_snapshot(&caller, input).await?;
    let stood_still_ms = Some(render::ms(made.stood_still_micros));
    Ok((StatusCode::CREATED, axum::Json(Snapshot { stood_still_ms, ..render::snapshot(made.template) })))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct KindQuery {
    /// `snapshot` or `base`; absent means both.
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// Lists the team's templates, the newest first.
#[utoipa::path(
    get, path = "", operation_id = "list_snapshots", tag = "snapshots",
    params(KindQuery),
    responses(
        (status = 200, body = Vec<Snapshot>),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn list(
    State(web): State<Web>,
    Caller(caller): Caller,
    Query(query): Query<KindQuery>,
) -> Result<axum::Json<Vec<Snapshot>>, WebError> {
    let templates = web.control.snapshots(&caller, query.kind.as_deref()).await?;
    Ok(axum::Json(templates.into_iter().map(render::snapshot).collect()))
}

/// One of the team's templates.
#[utoipa::path(
    get, path = "/{name}", operation_id = "get_snapshot", tag = "snapshots",
    params(("name" = String, Path, description = "the template")),
    responses(
        (status = 200, body = Snapshot),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn get(
    State(web): State<Web>,
    Caller(caller): Caller,
    Path(name): Path<String>,
) -> Result<axum::Json<Snapshot>, WebError> {
    Ok(axum::Json(render::snapshot(web.control.snapshot(&caller, &name).await?)))
}

/// Deletes a template. Sandboxes that started from it go on.
#[utoipa::path(
    delete, path = "/{name}", operation_id = "delete_snapshot", tag = "snapshots",
    params(("name" = String, Path, description = "the template")),
    responses(
        (status = 204, description = "its name is free"),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn delete(
    State(web): State<Web>,
    Caller(caller): Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, WebError> {
    web.control.delete_snapshot(&caller, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}
