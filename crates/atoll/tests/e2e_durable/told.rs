//! What a test asks the API about a sandbox.
//!
//! How it works: each answer is the part that tests compare, the oldest first.
//!
//! Deliberately absent: waiting; who asks says what for.

use atoll_api::ModeRequest;
use atoll_client::Client;

/// With memory, as nobody has to say.
pub(super) const MEMORY: ModeRequest = ModeRequest { mode: None };

/// What happened to a sandbox, the oldest first.
pub(super) async fn kinds(client: &Client, id: &str) -> Vec<String> {
    client.events(id, 50).await.unwrap().into_iter().rev().map(|event| event.kind).collect()
}

/// Why something of this kind happened to it last.
pub(super) async fn reason(client: &Client, id: &str, kind: &str) -> Option<String> {
    client.events(id, 50).await.unwrap().into_iter().find(|event| event.kind == kind)?.reason
}

/// The times of its samples, the oldest first.
pub(super) async fn sampled(client: &Client, id: &str) -> Vec<i64> {
    client.metrics(id, "10m").await.unwrap().points.into_iter().map(|point| point.timestamp_ms).collect()
}

/// Microseconds since 1970 of a time that the API told.
pub(super) fn micros(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().unwrap().as_microsecond()
}
