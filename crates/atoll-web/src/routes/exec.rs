//! Running commands.
//!
//! How it works: the body becomes the control plane's input; an exec is awaited, one in the background answers with its
//! tag, a stream becomes a WebSocket.
//!
//! Deliberately absent: shells, and decisions of any kind.

use atoll_api::{BackgroundResponse, ExecRequest, ExecResponse, Problem};
use atoll_control::Once;
use atoll_control::sandboxes::{ExecInput, FollowFrom, StartInput, Started};
use atoll_domain::{Invalid, Principal};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::caller::Caller;
use crate::error::WebError;
use crate::extract::{IdempotencyKey, Json, Path, Query, mark_replayed};
use crate::follow::{Follow, Which};
use crate::metrics::Streamed;
use crate::socket::Upgrade;
use crate::{Web, render};

pub(super) fn routes() -> OpenApiRouter<Web> {
    OpenApiRouter::new().routes(routes!(exec)).routes(routes!(exec_stream))
}

/// Runs a command to its end, or starts it in the background.
#[utoipa::path(
    post, path = "/{id}/exec", operation_id = "exec", tag = "exec",
    params(
        ("id" = String, Path, description = "the sandbox"),
        ("Idempotency-Key" = Option<String>, Header, description = "starts one background process, however often it is sent"),
    ),
    request_body = ExecRequest,
    responses(
        (status = 200, body = ExecResponse, description = "it ended"),
        (status = 202, body = BackgroundResponse, description = "it runs in the background"),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn exec(
    State(web): State<Web>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    key: IdempotencyKey,
    Json(request): Json<ExecRequest>,
) -> Result<Response, WebError> {
    if request.background {
        let once = key.of(&request)?;
        return background(web, &caller, id, request, once).await;
    }
    if request.tag.is_some() {
        return Err(Invalid::new("tag", "malformed", "a tag is for `background: true`").into());
    }
    let cmd = request.cmd.clone();
    let input = ExecInput {
        cmd: request.cmd,
        args: request.args,
        timeout_sec: request.timeout_sec,
        cwd: request.cwd,
        envs: request.envs.unwrap_or_default(),
        user: request.user,
    };
    let result = web.control.exec(&caller, &id, input).await?;
    Ok(axum::Json(render::exec(id, cmd, &result)).into_response())
}

async fn background(
    web: Web,
    caller: &Principal,
    id: String,
    request: ExecRequest,
    once: Option<Once>,
) -> Result<Response, WebError> {
    let cmd = request.cmd.clone();
    let input = StartInput {
        cmd: request.cmd,
        args: request.args,
        cwd: request.cwd,
        envs: request.envs.unwrap_or_default(),
        user: request.user,
        tag: request.tag,
        timeout_sec: request.timeout_sec,
        stdin: false,
        pty: None,
        backpressure: false,
    };
    let done = web.control.start_background(caller, &id, input, once).await?;
    let Started { pid, tag } = done.value;
    let answer = BackgroundResponse { sandbox_id: id, cmd, pid, tag };
    let mut response = (StatusCode::ACCEPTED, axum::Json(answer)).into_response();
    mark_replayed(&mut response, done.replayed);
    Ok(response)
}

/// Where a stream begins.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct StreamQuery {
    /// Comes back to the process with this tag, instead of starting one.
    tag: Option<String>,
    /// From this byte of its output on; absent means all that is kept.
    offset: Option<u64>,
    /// The process waits for this reader while it takes what comes, instead of leaving gaps.
    #[serde(default)]
    backpressure: bool,
}

/// Runs a command and streams its output over a WebSocket.
///
/// The first frame is `start`. `stop` kills the program; a connection that is lost does not: `?tag=&offset=` comes back to it.
/// Frames: `ExecClientFrame` and `StreamFrame`.
#[utoipa::path(
    get, path = "/{id}/exec/stream", operation_id = "exec_stream", tag = "exec",
    params(("id" = String, Path, description = "the sandbox"), StreamQuery),
    responses(
        (status = 101, description = "a WebSocket"),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn exec_stream(
    State(web): State<Web>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Query(query): Query<StreamQuery>,
    upgrade: Upgrade,
) -> Result<Response, WebError> {
    let permit = web.control.open_stream(&caller, &id).await?;
    let which = match query.tag {
        Some(process) => {
            let from = FollowFrom { offset: query.offset.unwrap_or(0), backpressure: query.backpressure };
            Which::Running { process, from }
        }
        None => Which::New,
    };
    let streamed = Streamed("/v1/sandboxes/{id}/exec/stream");
    let follow = Follow { control: web.control, caller, id, which, streamed, permit };
    Ok(upgrade.run(|reader, writer| follow.run(reader, writer)))
}
