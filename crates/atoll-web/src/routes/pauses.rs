//! Pausing, resuming, and how long a sandbox may live.
//!
//! How it works: bodies become the control plane's input; an answer comes when the host has done it.
//!
//! Deliberately absent: rules: which state allows what is decided below.

use atoll_api::{ModeRequest, Problem, Sandbox, UpdateSandboxRequest};
use atoll_control::sandboxes::on_expiry;
use atoll_domain::Invalid;
use atoll_domain::ttl::LifetimeChange;
use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::caller::Caller;
use crate::error::WebError;
use crate::extract::{Json, Path};
use crate::{Web, render};

pub(super) fn routes() -> OpenApiRouter<Web> {
    OpenApiRouter::new().routes(routes!(pause)).routes(routes!(resume)).routes(routes!(update))
}

/// Reads a moment.
pub(super) fn moment(text: &str) -> Result<i64, Invalid> {
    let malformed = || Invalid::new("end_at", "malformed", "use RFC 3339 with a zone, such as 2026-01-31T12:00:00Z");
    text.parse::<jiff::Timestamp>().map(|at| at.as_microsecond()).map_err(|_| malformed())
}

/// Pauses a sandbox to its host's disk and answers when no VM of it is left. One that is paused already stays as it is.
///
/// While a resume is under way it is refused with 409 and the state. `paused` of the answer says what was kept: `quiesced` is false when the
/// guest's agent did not answer in time; such a one may be resumed and not be copied.
#[utoipa::path(
    post, path = "/{id}/pause", operation_id = "pause_sandbox", tag = "sandboxes",
    params(("id" = String, Path, description = "the sandbox")),
    request_body = ModeRequest,
    responses(
        (status = 200, body = Sandbox),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn pause(
    State(web): State<Web>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Json(request): Json<ModeRequest>,
) -> Result<axum::Json<Sandbox>, WebError> {
    let done = web.control.pause_sandbox(&caller, &id, request.mode.as_deref()).await?;
    let mut answer = render::sandbox(done.sandbox, None);
    if let (Some(paused), Some(took)) = (&mut answer.paused, done.took) {
        paused.took_ms = Some(render::ms(u64::try_from(took.as_micros()).unwrap_or(u64::MAX)));
    }
    Ok(axum::Json(answer))
}

/// Resumes a paused sandbox and answers when its agent does. One that runs already stays as it is.
///
/// When its memory cannot be used any more the answer is 409 `memory_unusable`; mode `disk` boots from its disk and gives the memory up.
/// Nothing falls back by itself. While a pause is under way it is refused with 409 and the state.
#[utoipa::path(
    post, path = "/{id}/resume", operation_id = "resume_sandbox", tag = "sandboxes",
    params(("id" = String, Path, description = "the sandbox")),
    request_body = ModeRequest,
    responses(
        (status = 200, body = Sandbox),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn resume(
    State(web): State<Web>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Json(request): Json<ModeRequest>,
) -> Result<axum::Json<Sandbox>, WebError> {
    let sandbox = web.control.resume_sandbox(&caller, &id, request.mode.as_deref()).await?;
    let facts = web.control.host_facts(&caller, &sandbox).await;
    Ok(axum::Json(render::sandbox(sandbox, facts)))
}

/// Changes how long a running or paused sandbox may live; what is absent stays. Counts as a use.
#[utoipa::path(
    patch, path = "/{id}", operation_id = "update_sandbox", tag = "sandboxes",
    params(("id" = String, Path, description = "the sandbox")),
    request_body = UpdateSandboxRequest,
    responses(
        (status = 200, body = Sandbox),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn update(
    State(web): State<Web>,
    Caller(caller): Caller,
    Path(id): Path<String>,
    Json(request): Json<UpdateSandboxRequest>,
) -> Result<axum::Json<Sandbox>, WebError> {
    let change = LifetimeChange {
        timeout_sec: request.timeout_sec,
        end_at: request.end_at.map(|end| end.as_deref().map(moment).transpose()).transpose()?,
        on_expiry: request.on_expiry.as_deref().map(on_expiry).transpose()?,
        auto_resume: request.auto_resume,
        max_lifetime_sec: request.max_lifetime_sec,
    };
    let sandbox = web.control.update_sandbox(&caller, &id, &change).await?;
    Ok(axum::Json(render::sandbox(sandbox, None)))
}
