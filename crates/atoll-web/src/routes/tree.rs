//! The file tree of a sandbox.
//!
//! How it works: paths go to the guest's agent as they are; its refusals become problems by their type.
//!
//! Deliberately absent: contents (`files.rs`).

use atoll_api::{EntryList, EntryResponse, ListFilesRequest, MoveRequest, PathRequest, Problem};
use axum::extract::State;
use http::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::caller::Caller;
use crate::error::WebError;
use crate::extract::{Json, Path};
use crate::{Web, render};

pub(super) fn routes() -> OpenApiRouter<Web> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(stat))
        .routes(routes!(mkdir))
        .routes(routes!(rename))
        .routes(routes!(remove))
}

/// Lists a directory.
#[utoipa::path(
    post, path = "/{id}/files/list", operation_id = "list_files", tag = "files",
    params(("id" = String, Path, description = "the sandbox")),
    request_body = ListFilesRequest,
    responses(
        (status = 200, body = EntryList),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn list(
    State(web): State<Web>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Json(request): Json<ListFilesRequest>,
) -> Result<axum::Json<EntryList>, WebError> {
    let entries = web.control.list_files(&caller, &id, &request.path, request.depth).await?;
    Ok(axum::Json(EntryList { entries: entries.into_iter().map(render::entry).collect() }))
}

/// Tells what is at a path.
#[utoipa::path(
    post, path = "/{id}/files/stat", operation_id = "stat_file", tag = "files",
    params(("id" = String, Path, description = "the sandbox")),
    request_body = PathRequest,
    responses(
        (status = 200, body = EntryResponse),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn stat(
    State(web): State<Web>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Json(request): Json<PathRequest>,
) -> Result<axum::Json<EntryResponse>, WebError> {
    let entry = web.control.stat_file(&caller, &id, &request.path).await?;
    Ok(axum::Json(EntryResponse { entry: render::entry(entry) }))
}

/// Makes a directory and its parents; 409 when something is there.
#[utoipa::path(
    post, path = "/{id}/files/mkdir", operation_id = "make_directory", tag = "files",
    params(("id" = String, Path, description = "the sandbox")),
    request_body = PathRequest,
    responses(
        (status = 200, body = EntryResponse),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn mkdir(
    State(web): State<Web>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Json(request): Json<PathRequest>,
) -> Result<axum::Json<EntryResponse>, WebError> {
    let entry = web.control.make_directory(&caller, &id, &request.path).await?;
    Ok(axum::Json(EntryResponse { entry: render::entry(entry) }))
}

/// Moves a file or directory.
#[utoipa::path(
    post, path = "/{id}/files/move", operation_id = "move_file", tag = "files",
    params(("id" = String, Path, description = "the sandbox")),
    request_body = MoveRequest,
    responses(
        (status = 200, body = EntryResponse),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn rename(
    State(web): State<Web>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Json(request): Json<MoveRequest>,
) -> Result<axum::Json<EntryResponse>, WebError> {
    let entry = web.control.move_file(&caller, &id, &request.source, &request.destination).await?;
    Ok(axum::Json(EntryResponse { entry: render::entry(entry) }))
}

/// Removes a file, or a directory with all that is in it.
#[utoipa::path(
    post, path = "/{id}/files/remove", operation_id = "remove_file", tag = "files",
    params(("id" = String, Path, description = "the sandbox")),
    request_body = PathRequest,
    responses(
        (status = 204, description = "removed"),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn remove(
    State(web): State<Web>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Json(request): Json<PathRequest>,
) -> Result<StatusCode, WebError> {
    web.control.remove_file(&caller, &id, &request.path).await?;
    Ok(StatusCode::NO_CONTENT)
}
