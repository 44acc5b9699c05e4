//! Files of a sandbox.
//!
//! How it works: contents pass through piece by piece, both ways; a form's `path` comes before its `file`.
//!
//! Deliberately absent: holding a file in memory.

use atoll_api::{FileWrite, Problem, ReadFileRequest};
use atoll_domain::Principal;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Web;
use crate::caller::Caller;
use crate::error::WebError;
use crate::extract::{Json, Path};
use crate::upload::{self, FILE_CAP, STREAM_CAP};

pub(super) fn routes() -> OpenApiRouter<Web> {
    OpenApiRouter::new()
        .routes(routes!(write))
        .routes(routes!(read))
        .routes(routes!(stream_write))
        .routes(routes!(stream_read))
}

/// Writes a file of at most 100 MiB.
#[utoipa::path(
    post, path = "/{id}/files/write", operation_id = "write_file", tag = "files",
    params(("id" = String, Path, description = "the sandbox")),
    request_body(content = FileWrite, content_type = "multipart/form-data"),
    responses(
        (status = 204, description = "written"),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn write(
    State(web): State<Web>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    request: Request,
) -> Result<StatusCode, WebError> {
    upload::write(&web.control, &caller, &id, request, FILE_CAP).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Reads a file.
#[utoipa::path(
    post, path = "/{id}/files/read", operation_id = "read_file", tag = "files",
    params(("id" = String, Path, description = "the sandbox")),
    request_body = ReadFileRequest,
    responses(
        (status = 200, description = "its contents", content_type = "application/octet-stream", body = Vec<u8>),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn read(
    State(web): State<Web>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Json(request): Json<ReadFileRequest>,
) -> Result<Response, WebError> {
    contents(&web, &caller, &id, &request.path).await
}

async fn contents(web: &Web, caller: &Principal, id: &str, path: &str) -> Result<Response, WebError> {
    let file = web.control.read_file(caller, id, path).await?;
    let size = file.size();
    let mut response = Response::new(Body::from_stream(file.into_stream()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    if let Some(size) = size {
        headers.insert(header::CONTENT_LENGTH, size.into());
    }
    Ok(response)
}

/// Writes a file of any size that its disk takes, as it comes.
#[utoipa::path(
    post, path = "/{id}/files/stream/write", operation_id = "stream_write_file", tag = "files",
    params(("id" = String, Path, description = "the sandbox")),
    request_body(content = FileWrite, content_type = "multipart/form-data"),
    responses(
        (status = 204, description = "written"),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn stream_write(
    State(web): State<Web>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    request: Request,
) -> Result<StatusCode, WebError> {
    upload::write(&web.control, &caller, &id, request, STREAM_CAP).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Reads a file as it comes. The same as `/files/read`, which streams too.
#[utoipa::path(
    post, path = "/{id}/files/stream/read", operation_id = "stream_read_file", tag = "files",
    params(("id" = String, Path, description = "the sandbox")),
    request_body = ReadFileRequest,
    responses(
        (status = 200, description = "its contents", content_type = "application/octet-stream", body = Vec<u8>),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn stream_read(
    State(web): State<Web>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Json(request): Json<ReadFileRequest>,
) -> Result<Response, WebError> {
    contents(&web, &caller, &id, &request.path).await
}
