//! Terminals.
//!
//! How it works: the upgrade is answered at once, and the first frame says whether a terminal is started or come back
//! to.
//!
//! Deliberately absent: the session (`terminal.rs`).

use std::sync::atomic::AtomicBool;

use atoll_api::Problem;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Web;
use crate::caller::Caller;
use crate::error::WebError;
use crate::extract::{Path, Query};
use crate::socket::Upgrade;
use crate::terminal::Terminal;

pub(super) fn routes() -> OpenApiRouter<Web> {
    OpenApiRouter::new().routes(routes!(pty))
}

/// How output is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Wire {
    Json,
    Binary,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct PtyQuery {
    /// `binary`: output as binary frames. By default as JSON, until the client's first input is a binary frame.
    #[param(inline)]
    wire: Option<Wire>,
}

/// A terminal over a WebSocket.
///
/// The first frame is `start` or `connect`. A lost connection leaves the session; `connect` with its tag comes back to it.
/// Frames: `PtyClientFrame` and `PtyFrame`.
#[utoipa::path(
    get, path = "/{id}/pty", operation_id = "pty", tag = "pty",
    params(("id" = String, Path, description = "the sandbox"), PtyQuery),
    responses(
        (status = 101, description = "a WebSocket"),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn pty(
    State(web): State<Web>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Query(query): Query<PtyQuery>,
    upgrade: Upgrade,
) -> Result<Response, WebError> {
    let permit = web.control.open_stream(&caller, &id).await?;
    let binary = AtomicBool::new(query.wire == Some(Wire::Binary));
    let terminal = Terminal { control: web.control, caller, id, binary, permit };
    Ok(upgrade.run(|reader, writer| terminal.run(reader, writer)))
}
