//! The keeper and the guest agent, carried inside the binary.
//!
//! How it works: `build.rs` names the two static programs, `include_bytes!` takes them in, so that one file is all
//! that has to be copied to another machine.
//!
//! Deliberately absent: unpacking (the host agent writes the keeper into its data directory, the guest agent into an
//! initramfs).

/// The static keeper.
pub(crate) static KEEPER: &[u8] = include_bytes!(env!("ATOLL_EMBEDDED_KEEPER"));
/// The static guest agent.
pub(crate) static GUEST: &[u8] = include_bytes!(env!("ATOLL_EMBEDDED_GUEST"));

/// Whether this build carries both; a plain `cargo build` does not.
pub(crate) fn complete() -> bool {
    !KEEPER.is_empty() && !GUEST.is_empty()
}
