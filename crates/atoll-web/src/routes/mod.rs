//! All routes, and the document that describes them.
//!
//! How it works: every route is registered through `routes!`, which takes its path and its documentation from the same annotation, so that
//! neither is without the other. `/v1/capsules` is the router of `/v1/sandboxes` once more.
//!
//! Deliberately absent: layers that decide who may do what.

use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;

use crate::error::WebError;
use crate::{Web, answer, metrics};

mod exec;
mod files;
mod health;
mod life;
mod logs;
mod pauses;
mod processes;
mod pty;
mod sandboxes;
mod scrub;
mod snapshots;
mod system;
mod tree;

/// How long what only asks the database or a guest's agent may take.
const QUICK: Duration = Duration::from_secs(60);
/// How long making or ending a sandbox may take; the host's own deadlines are shorter.
const LIFECYCLE: Duration = Duration::from_secs(45 * 60);
/// How long reading everything may take that a host keeps.
const SCRUB: Duration = Duration::from_secs(12 * 3600);

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Atoll",
        description = "Runs code that you do not trust, each program in a microVM of its own.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    components(schemas(atoll_api::Problem, atoll_api::FieldError, atoll_api::ErrorBody, atoll_api::ErrorCode, atoll_api::ExecClientFrame,
        atoll_api::StreamFrame, atoll_api::PtyClientFrame, atoll_api::PtyFrame)),
    security(("api_key" = []), ("bearer" = [])),
    modifiers(&Security),
)]
struct Document;

struct Security;

impl Modify for Security {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let key = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key")));
        components.add_security_scheme("api_key", key);
        let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        components.add_security_scheme("bearer", bearer);
    }
}

fn deadline(limit: Duration) -> impl Fn(Request, Next) -> futures_util::future::BoxFuture<'static, Response> + Clone {
    move |request: Request, next: Next| {
        Box::pin(async move {
            let answer = tokio::time::timeout(limit, next.run(request)).await;
            answer.unwrap_or_else(|_| WebError::Deadline(limit.as_secs()).into_response())
        })
    }
}

/// What `/v1/sandboxes` and `/v1/capsules` are.
fn sandbox_routes() -> OpenApiRouter<Web> {
    let quick = sandboxes::quick().route_layer(from_fn(deadline(QUICK)));
    let lifecycle = sandboxes::lifecycle().merge(pauses::routes()).route_layer(from_fn(deadline(LIFECYCLE)));
    // Commands and files have deadlines of their own.
    quick
        .merge(lifecycle)
        .merge(exec::routes())
        .merge(processes::routes())
        .merge(pty::routes())
        .merge(logs::routes().route_layer(from_fn(deadline(QUICK))))
        .merge(tree::routes().route_layer(from_fn(deadline(QUICK))))
        .merge(files::routes())
        .merge(life::routes().route_layer(from_fn(deadline(QUICK))))
}

fn all() -> OpenApiRouter<Web> {
    OpenApiRouter::with_openapi(Document::openapi())
        .merge(health::routes().route_layer(from_fn(deadline(QUICK))))
        .merge(system::routes())
        .nest("/v1/snapshots", snapshots::routes().route_layer(from_fn(deadline(LIFECYCLE))))
        .nest("/v1/scrub", scrub::routes().route_layer(from_fn(deadline(SCRUB))))
        .nest("/v1/sandboxes", sandbox_routes())
        .nest("/v1/capsules", capsules())
}

/// The same under its other name; operation ids are unique in a document.
fn capsules() -> OpenApiRouter<Web> {
    let mut router = sandbox_routes();
    for item in router.get_openapi_mut().paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.post, &mut item.delete, &mut item.put, &mut item.patch];
        for operation in operations.into_iter().flatten() {
            operation.operation_id = operation.operation_id.take().map(|id| format!("{id}_capsule"));
            operation.tags = Some(vec!["capsules".into()]);
        }
    }
    router
}

/// The whole service.
pub(crate) fn router(web: Web) -> Router {
    let (router, _) = all().split_for_parts();
    router
        .fallback(|| async { WebError::NoRoute })
        .method_not_allowed_fallback(|| async { WebError::MethodNotAllowed })
        .layer(DefaultBodyLimit::disable())
        .layer(CatchPanicLayer::custom(|_: Box<dyn std::any::Any + Send>| WebError::Panic.into_response()))
        .layer(from_fn(answer::layer))
        .layer(from_fn(metrics::layer))
        .with_state(web)
}

/// The OpenAPI document of everything that is served.
pub fn openapi() -> utoipa::openapi::OpenApi {
    all().into_openapi()
}
