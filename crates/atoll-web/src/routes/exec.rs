//! Running commands.

use atoll_api::{ExecRequest, ExecResponse, Problem};
use atoll_control::sandboxes::ExecInput;
use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::caller::Caller;
use crate::error::WebError;
use crate::extract::{Json, Path};
use crate::{Web, render};

pub(super) fn routes() -> OpenApiRouter<Web> {
    OpenApiRouter::new().routes(routes!(exec))
}

/// Runs a command to its end.
#[utoipa::path(
    post, path = "/{id}/exec", operation_id = "exec", tag = "exec",
    params(("id" = String, Path, description = "the sandbox")),
    request_body = ExecRequest,
    responses(
        (status = 200, body = ExecResponse),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn exec(
    State(web): State<Web>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Json(request): Json<ExecRequest>,
) -> Result<axum::Json<ExecResponse>, WebError> {
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
    Ok(axum::Json(render::exec(id, cmd, &result)))
}
