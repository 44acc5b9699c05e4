//! What a sandbox's machine and agent say.
//!
//! How it works: the console's last 256 KiB, as they are; the agent's own lines are those with its mark.
//!
//! Deliberately absent: following, and taking escapes out: a client that prints to a terminal does.

use atoll_api::Problem;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Web;
use crate::caller::Caller;
use crate::error::WebError;
use crate::extract::{Path, Query};

/// What lines of the agent begin with, on the console.
const AGENT: &[u8] = b"atoll: ";

pub(super) fn routes() -> OpenApiRouter<Web> {
    OpenApiRouter::new().routes(routes!(logs))
}

/// Whose lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Source {
    Console,
    Agent,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct LogQuery {
    /// `console` (the default): all that the machine said; `agent`: the guest agent's lines alone.
    #[param(inline)]
    source: Option<Source>,
}

/// What a running sandbox's console said last, 256 KiB at most. It is text out of a guest: a terminal should not obey it.
#[utoipa::path(
    get, path = "/{id}/logs", operation_id = "logs", tag = "sandboxes",
    params(("id" = String, Path, description = "the sandbox"), LogQuery),
    responses(
        (status = 200, body = String, content_type = "text/plain"),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn logs(
    State(web): State<Web>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Query(query): Query<LogQuery>,
) -> Result<Response, WebError> {
    let mut text = web.control.console(&caller, &id).await?;
    if query.source == Some(Source::Agent) {
        text = text
            .split_inclusive(|byte| *byte == b'\n')
            .filter(|line| line.starts_with(AGENT))
            .flatten()
            .copied()
            .collect();
    }
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response())
}
