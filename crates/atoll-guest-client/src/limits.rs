//! What a guest may cost its host: caps in bytes and deadlines by phase.
//!
//! How it works: one plain struct, given to a client once and looked at in every phase of a call.
//!
//! Deliberately absent: limits of one call; a client with others is made by `with_limits`.

use std::time::Duration;

/// Caps and deadlines of one client. The defaults suit a guest that is emulated
/// and busy; tests make them small.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Until a connection stands.
    pub dial: Duration,
    /// From the request to the head of its answer.
    pub head: Duration,
    /// The whole body of an answer that is not a stream.
    pub body: Duration,
    /// Between two pieces of a file, either way, and for a process to take its input.
    pub idle: Duration,
    /// The whole of a file, either way, however it trickles.
    pub transfer: Duration,
    /// How much longer than a process's own deadline its end is waited for.
    pub grace: Duration,
    /// How often the agent shall say that a silent stream lives (whole seconds).
    /// A stream silent for three times as long is given up.
    pub keepalive: Duration,
    /// Bytes of an answer's head.
    pub head_bytes: usize,
    /// Fields in an answer's head.
    pub head_fields: usize,
    /// Bytes of an answer that is not a stream.
    pub body_bytes: usize,
    /// Bytes of one frame of a stream.
    pub frame_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            dial: Duration::from_secs(10),
            head: Duration::from_secs(30),
            body: Duration::from_secs(30),
            idle: Duration::from_mins(1),
            transfer: Duration::from_hours(6),
            grace: Duration::from_secs(15),
            keepalive: Duration::from_secs(30),
            head_bytes: 32 * 1024,
            head_fields: 64,
            body_bytes: 4 * 1024 * 1024,
            frame_bytes: 4 * 1024 * 1024,
        }
    }
}
