//! Making, looking at and ending sandboxes.
//!
//! How it works: bodies become the control plane's input, records the API's types; those that wait for a host have
//! longer deadlines.
//!
//! Deliberately absent: rules and defaults.

use atoll_api::{CreateSandboxRequest, NEXT_CURSOR, Problem, Sandbox};
use atoll_control::sandboxes::{CreateInput, on_expiry};
use atoll_domain::host::OwnFiles;
use atoll_domain::ttl::LifetimeChange;
use axum::extract::{OriginalUri, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::pauses::moment;
use crate::caller::Caller;
use crate::error::WebError;
use crate::extract::{IdempotencyKey, Json, Path, Query, mark_replayed};
use crate::{Web, render};

/// Routes that ask only the database.
pub(super) fn quick() -> OpenApiRouter<Web> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get)).routes(routes!(ping))
}

/// Routes that wait for a host.
pub(super) fn lifecycle() -> OpenApiRouter<Web> {
    OpenApiRouter::new().routes(routes!(create)).routes(routes!(destroy))
}

/// Makes a sandbox and answers when it runs.
#[utoipa::path(
    post, path = "", operation_id = "create_sandbox", tag = "sandboxes",
    params(("Idempotency-Key" = Option<String>, Header, description = "makes one sandbox, however often it is sent")),
    request_body = CreateSandboxRequest,
    responses(
        (status = 201, body = Sandbox),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn create(
    State(web): State<Web>,
    Caller(caller): Caller,
    key: IdempotencyKey,
    Json(request): Json<CreateSandboxRequest>,
) -> Result<Response, WebError> {
    let once = key.of(&request)?;
    let input = CreateInput {
        template: request.template,
        vcpus: request.vcpus,
        memory_mb: request.memory_mb,
        disk_mb: request.disk_mb,
        lifetime: LifetimeChange {
            timeout_sec: request.timeout_sec,
            end_at: request.end_at.as_deref().map(|text| moment(text).map(Some)).transpose()?,
            on_expiry: request.on_expiry.as_deref().map(on_expiry).transpose()?,
            auto_resume: request.auto_resume,
            max_lifetime_sec: request.max_lifetime_sec,
        },
        boot: request.boot,
        network: request.network,
        envs: request.envs.unwrap_or_default(),
        metadata: request.metadata.unwrap_or_default(),
        own: OwnFiles { kernel: request.kernel, rootfs: request.rootfs },
    };
    let done = if request.debug_port {
        web.control.may_open_debug_port(&caller)?;
        let claim = web.debug_port.claim(&web.control, key.text()).await?;
        web.debug_port.create(claim, &web.control, &caller, input, once).await?
    } else {
        web.control.create_sandbox_once(&caller, input, once).await?
    };
    let facts = web.control.host_facts(&caller, &done.value).await;
    let mut response = (StatusCode::CREATED, axum::Json(render::sandbox(done.value, facts))).into_response();
    mark_replayed(&mut response, done.replayed);
    Ok(response)
}

/// Which page of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct PageQuery {
    /// Most items of the answer: 50 by default, 200 at most; more counts as 200.
    limit: Option<i64>,
    /// `X-Next-Cursor` of the page before.
    cursor: Option<String>,
}

/// Lists the team's sandboxes that are not over, the newest first.
#[utoipa::path(
    get, path = "", operation_id = "list_sandboxes", tag = "sandboxes",
    params(PageQuery),
    responses(
        (status = 200, body = Vec<Sandbox>, headers(
            ("X-Next-Cursor" = Option<String>, description = "where the next page begins; absent on the last"),
            ("Link" = Option<String>, description = "the next page, as rel=\"next\""),
        )),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn list(
    State(web): State<Web>,
    Caller(caller): Caller,
    OriginalUri(uri): OriginalUri,
    Query(query): Query<PageQuery>,
) -> Result<Response, WebError> {
    let page = web.control.list_sandboxes(&caller, query.cursor.as_deref(), query.limit).await?;
    let items: Vec<_> = page.items.into_iter().map(|sandbox| render::sandbox(sandbox, None)).collect();
    let mut response = axum::Json(items).into_response();
    if let Some(cursor) = page.next_cursor {
        let limit = query.limit.filter(|limit| *limit > 0).map(|limit| format!("&limit={limit}")).unwrap_or_default();
        let link = format!("<{}?cursor={cursor}{limit}>; rel=\"next\"", uri.path());
        for (name, value) in [(header::HeaderName::from_static(NEXT_CURSOR), cursor), (header::LINK, link)] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(name, value);
            }
        }
    }
    Ok(response)
}

/// One sandbox, whatever its status.
#[utoipa::path(
    get, path = "/{id}", operation_id = "get_sandbox", tag = "sandboxes",
    params(("id" = String, Path, description = "the sandbox")),
    responses(
        (status = 200, body = Sandbox),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn get(
    State(web): State<Web>,
    Caller(caller): Caller,
    Path(id): Path<String>,
) -> Result<axum::Json<Sandbox>, WebError> {
    let sandbox = web.control.sandbox(&caller, &id).await?;
    let facts = web.control.host_facts(&caller, &sandbox).await;
    Ok(axum::Json(render::sandbox(sandbox, facts)))
}

/// Ends a sandbox and answers when nothing of it is left. One that is over already is no error.
#[utoipa::path(
    delete, path = "/{id}", operation_id = "destroy_sandbox", tag = "sandboxes",
    params(("id" = String, Path, description = "the sandbox")),
    responses(
        (status = 204, description = "nothing of it is left"),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn destroy(
    State(web): State<Web>,
    Caller(caller): Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, WebError> {
    web.control.destroy_sandbox(&caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Counts as a use of a running sandbox.
#[utoipa::path(
    post, path = "/{id}/ping", operation_id = "ping_sandbox", tag = "sandboxes",
    params(("id" = String, Path, description = "the sandbox")),
    responses(
        (status = 204, description = "noted"),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn ping(State(web): State<Web>, Caller(caller): Caller, Path(id): Path<String>) -> Result<StatusCode, WebError> {
    web.control.ping_sandbox(&caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
