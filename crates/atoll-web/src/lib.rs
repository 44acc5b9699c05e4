//! The REST API: routes, and how HTTP becomes calls of the control plane.
//!
//! How it works: one file per resource under [`routes`], each handler short: extract, call a use case, write its answer. A
//! request passes, from outside in: its id and the error writer ([`answer`]), the panic catcher, its deadline, the routes. Every error
//! is a [`error::WebError`] until `answer` writes it as a problem body and logs it, once. [`serve`] accepts connections with bounds on heads,
//! idle times and numbers. The OpenAPI document comes out of the same routes.
//!
//! Deliberately absent: rules and authorisation (atoll-control decides), TLS.

mod answer;
mod caller;
mod debug_port;
mod docs;
mod error;
mod extract;
mod feed;
mod follow;
mod frames;
mod metrics;
mod render;
mod routes;
mod serve;
mod session;
mod socket;
mod terminal;
mod upload;

use atoll_control::Control;

pub use debug_port::DebugPort;
pub use routes::openapi;
pub use serve::{serve_local, serve_tcp};

/// What the routes need.
#[derive(Debug, Clone)]
pub struct Web {
    /// The control plane.
    pub control: Control,
    /// Version of Atoll, as `/health` tells it.
    pub version: &'static str,
    /// Where one sandbox's agent is served to this machine, if one asks for it.
    pub debug_port: DebugPort,
}
