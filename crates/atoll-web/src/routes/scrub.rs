//! Reading everything again that is kept.
//!
//! How it works: one call that lasts as long as the reading does.
//!
//! Deliberately absent: progress. It reads as fast as the disk gives.

use atoll_api::{Damage, Problem, ScrubReport};
use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Web;
use crate::caller::Caller;
use crate::error::WebError;

pub(super) fn routes() -> OpenApiRouter<Web> {
    OpenApiRouter::new().routes(routes!(scrub))
}

/// Reads everything again that the host keeps and compares it with its signed manifests. For platform admins, over the data
/// directory's socket.
#[utoipa::path(
    post, path = "", operation_id = "scrub", tag = "system",
    responses(
        (status = 200, body = ScrubReport),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn scrub(State(web): State<Web>, Caller(caller): Caller) -> Result<axum::Json<ScrubReport>, WebError> {
    let report = web.control.scrub(&caller).await?;
    let damage = |found: atoll_control::scrub::NamedDamage| Damage {
        kind: found.damage.kind.as_str().into(),
        id: found.damage.id,
        name: found.name,
        reason: found.damage.reason,
    };
    let damaged = report.damaged.into_iter().map(damage).collect();
    Ok(axum::Json(ScrubReport { files: report.files, bytes: report.bytes, damaged }))
}
