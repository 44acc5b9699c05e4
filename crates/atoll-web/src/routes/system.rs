//! Atoll's own numbers, and the documentation of its API.
//!
//! How it works: numbers in Prometheus' text form; the document is made from the routes once and served as JSON, YAML
//! and a page.
//!
//! Deliberately absent: numbers of single sandboxes (`life.rs`).

use std::sync::LazyLock;

use atoll_api::Problem;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header;
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::caller::Caller;
use crate::error::WebError;
use crate::metrics::{self, Gauges};
use crate::{Web, docs};

pub(super) fn routes() -> OpenApiRouter<Web> {
    OpenApiRouter::new()
        .routes(routes!(metrics_page))
        .routes(routes!(document))
        .routes(routes!(document_yaml))
        .routes(routes!(docs_page))
}

/// The document, written once: it only changes with the binary.
static DOCUMENT: LazyLock<Value> = LazyLock::new(|| serde_json::to_value(super::openapi()).unwrap_or_default());

/// Atoll's own numbers, in Prometheus' text form.
#[utoipa::path(
    get, path = "/metrics", operation_id = "metrics", tag = "system",
    responses(
        (status = 200, body = String, content_type = "text/plain"),
        (status = "default", body = Problem, content_type = "application/problem+json"),
    ),
)]
async fn metrics_page(State(web): State<Web>, _: Caller) -> Result<Response, WebError> {
    let sandboxes = web.control.sandbox_counts().await?;
    let gauges = Gauges { version: web.version, streams: web.control.open_streams(), sandboxes };
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    Ok((kind, metrics::page(&gauges)).into_response())
}

/// This document.
#[utoipa::path(
    get, path = "/openapi.json", operation_id = "openapi_json", tag = "system", security(()),
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json", body = Object)),
)]
async fn document() -> axum::Json<&'static Value> {
    axum::Json(&DOCUMENT)
}

/// This document as YAML.
#[utoipa::path(
    get, path = "/openapi.yaml", operation_id = "openapi_yaml", tag = "system", security(()),
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/yaml", body = String)),
)]
async fn document_yaml() -> Response {
    ([(header::CONTENT_TYPE, "application/yaml")], docs::yaml(&DOCUMENT)).into_response()
}

/// This document as a page.
#[utoipa::path(
    get, path = "/docs", operation_id = "docs", tag = "system", security(()),
    responses((status = 200, description = "a page", content_type = "text/html", body = String)),
)]
async fn docs_page() -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"),
    ];
    (headers, docs::page(&DOCUMENT)).into_response()
}
