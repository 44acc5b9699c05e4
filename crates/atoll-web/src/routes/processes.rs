//! Processes that run in a sandbox.
//!
//! How it works: a process is named by pid or tag in the path; its stream is the same as an exec's.
//!
//! Deliberately absent: processes that the guest started by itself.

use atoll_api::{Problem, ProcessList};
use atoll_control::sandboxes::FollowFrom;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::caller::Caller;
use crate::error::WebError;
use crate::extract::{Path, Query};
use crate::follow::{Follow, Which};
use crate::metrics::Streamed;
use crate::socket::Upgrade;
use crate::{Web, render};

pub(super) fn routes() -> OpenApiRouter<Web> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(kill)).routes(routes!(stream))
}

/// Lists the processes that were started through this API and run.
#[utoipa::path(
    get, path = "/{id}/processes", operation_id = "list_processes", tag = "processes",
    params(("id" = String, Path, description = "the sandbox")),
    responses(
        (status = 200, body = ProcessList),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn list(
    State(web): State<Web>,
    Caller(caller): Caller,
    Path(id): Path<String>,
) -> Result<axum::Json<ProcessList>, WebError> {
    let processes = web.control.processes(&caller, &id).await?;
    Ok(axum::Json(ProcessList { processes: processes.into_iter().map(render::process).collect() }))
}

/// Which signal.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct SignalQuery {
    /// `SIGKILL` by default; HUP, INT, QUIT, KILL, USR1, USR2, TERM, CONT, STOP, WINCH, with or without `SIG`.
    signal: Option<String>,
}

/// Sends a signal to a process and its group.
#[utoipa::path(
    delete, path = "/{id}/processes/{process}", operation_id = "kill_process", tag = "processes",
    params(
        ("id" = String, Path, description = "the sandbox"),
        ("process" = String, Path, description = "its pid or tag"),
        SignalQuery,
    ),
    responses(
        (status = 204, description = "sent"),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn kill(
    State(web): State<Web>,
    Caller(caller): Caller,
    Path((id, process)): Path<(String, String)>,
    Query(query): Query<SignalQuery>,
) -> Result<StatusCode, WebError> {
    web.control.signal_process(&caller, &id, &process, query.signal.as_deref()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Where a stream begins.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct OffsetQuery {
    /// From this byte of its output on; absent means all that is kept.
    offset: Option<u64>,
    /// The process waits for this reader while it takes what comes, instead of leaving gaps.
    #[serde(default)]
    backpressure: bool,
}

/// Streams a process's output over a WebSocket, in the frames of `/exec/stream`. `stop` kills it.
#[utoipa::path(
    get, path = "/{id}/processes/{process}/stream", operation_id = "stream_process", tag = "processes",
    params(
        ("id" = String, Path, description = "the sandbox"),
        ("process" = String, Path, description = "its pid or tag"),
        OffsetQuery,
    ),
    responses(
        (status = 101, description = "a WebSocket"),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn stream(
    State(web): State<Web>,
    Caller(caller): Caller,
    Path((id, process)): Path<(String, String)>,
    Query(query): Query<OffsetQuery>,
    upgrade: Upgrade,
) -> Result<Response, WebError> {
    let permit = web.control.open_stream(&caller, &id).await?;
    let from = FollowFrom { offset: query.offset.unwrap_or(0), backpressure: query.backpressure };
    let which = Which::Running { process, from };
    let streamed = Streamed("/v1/sandboxes/{id}/processes/{process}/stream");
    let follow = Follow { control: web.control, caller, id, which, streamed, permit };
    Ok(upgrade.run(|reader, writer| follow.run(reader, writer)))
}
