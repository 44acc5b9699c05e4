//! The client against agents that lie, over streams in memory.
//!
//! What bounds the client's memory is measured from outside: how much the liar could get rid of
//! before the client closed. What bounds its time is a limit of some hundred milliseconds, and a
//! deadline around every test that is far above it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bodies;
mod heads;
mod liar;
mod streams;
