//! What every request gets: a name, a log line, and a body for its error.
//!
//! How it works: the outermost layer. A client's `X-Request-Id` is kept when it has 8 to 64 letters, digits, `-` or `_`, else a new one is
//! made. A handler's error arrives as an extension of an empty response and is written here, so that it is logged once and
//! knows its request.
//!
//! Deliberately absent: queries and headers in the log (they may hold secrets).

use std::error::Error as _;
use std::time::Instant;

use atoll_api::REQUEST_ID;
use atoll_domain::RequestId;
use axum::Json;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, Method, StatusCode, header};

use crate::error::{Pending, WebError};

const NAME: HeaderName = HeaderName::from_static(REQUEST_ID);
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Names the request, runs it, writes its error.
pub(crate) async fn layer(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(&request);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = next.run(request).await;
    if let Some(Pending(error)) = response.extensions_mut().remove::<Pending>() {
        log(&error, &id, &method, &path);
        response = write(&error, &id, &path, response);
    }
    let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    tracing::debug!(request_id = %id, %method, path, status = response.status().as_u16(), ms, "answered");
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&id) {
        headers.insert(NAME, value);
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn request_id(request: &Request) -> String {
    let given = request.headers().get(NAME).and_then(|value| value.to_str().ok());
    let good = |text: &&str| {
        (8..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    match given.filter(good) {
        Some(text) => text.to_owned(),
        None => RequestId::from_random(uuid::Uuid::now_v7().into_bytes()).to_string(),
    }
}

fn log(error: &WebError, id: &str, method: &Method, path: &str) {
    let mut causes = String::new();
    let mut cause = error.source();
    while let Some(inner) = cause {
        causes.push_str(": ");
        causes.push_str(&inner.to_string());
        cause = inner.source();
    }
    let status = error.status();
    if status.is_server_error() {
        tracing::error!(request_id = %id, %method, path, status = status.as_u16(), "{error}{causes}");
    } else {
        tracing::debug!(request_id = %id, %method, path, status = status.as_u16(), "{error}{causes}");
    }
}

fn write(error: &WebError, id: &str, path: &str, before: Response) -> Response {
    let mut response = (error.status(), Json(error.problem(path, id))).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, PROBLEM);
    // A 405 keeps its Allow header.
    if let Some(allow) = before.headers().get(header::ALLOW) {
        headers.insert(header::ALLOW, allow.clone());
    }
    match error.status() {
        StatusCode::CONFLICT if error.is_under_way() => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        StatusCode::UNAUTHORIZED => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        _ => {}
    }
    response
}
