//! A typed client of Atoll's API, for the command line, the end-to-end tests and the benchmarks.
//!
//! How it works: a [`Client`] speaks the public REST API over TCP with an API key, or over the socket of a data directory, where the
//! kernel says who asks. Every call has a deadline, every answer a cap; what the server refuses comes back as the
//! [`Problem`](atoll_api::Problem) that it sent.
//!
//! Deliberately absent: retries of what may have had an effect, and any rule of the server's.

mod client;
mod create;
mod endpoint;
mod error;
mod exec_stream;
mod files;
mod life;
mod sandboxes;
mod scrub;
mod socket;
mod terminal;
mod window;

pub use client::Client;
pub use endpoint::{ApiKey, Endpoint, SOCKET};
pub use error::ClientError;
pub use exec_stream::{ExecEvent, ExecStream, INPUT};
pub use files::Download;
pub use sandboxes::output_of;
pub use terminal::{Terminal, TerminalEvent};
