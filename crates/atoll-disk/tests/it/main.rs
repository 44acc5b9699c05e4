//! What this crate promises, through its public interface.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod apt;
mod cache;
mod cow;
mod initramfs;
