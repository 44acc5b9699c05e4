//! The wire between Atoll and the agent inside a guest: generated messages and
//! Connect service traits.
//!
//! How it works: `build.rs` turns the `.proto` files of the repository's `proto/` folder into code. Generated types
//! stay in this crate and in the adapters of `atoll-guest` and `atoll-guest-client`; everybody else speaks the plain
//! types of those.
//!
//! Deliberately absent: anything written by hand: conversions, I/O.

// Generated code is not ours to lint.
#[allow(warnings, clippy::all, clippy::pedantic, clippy::unwrap_used, reason = "generated code")]
mod generated {
    connectrpc::include_generated!();
}

pub use generated::{filesystem, process};
