//! The service layer of the control plane: one file per resource, plus the loops in [`background`].
//!
//! How it works: every call takes the [`Principal`](atoll_domain::Principal) that acts and is authorised here. What changes anything
//! is written down in one transaction before a host is called and one after; the call itself runs in a task of [`Control`]'s
//! own, so that a request that goes away changes nothing. Hosts are reached through [`ports::HostDriver`] alone.
//!
//! Deliberately absent: HTTP, SQL, and anything that runs on a host.

pub mod background;
mod bootstrap;
mod control;
mod error;
mod joined;
mod keys;
mod once;
pub mod ports;
mod random;
pub mod sandboxes;
pub mod scrub;
mod seal;
pub mod snapshots;
mod step;
mod streams;
mod uses;

pub use bootstrap::FirstStart;
pub use control::Control;
pub use error::{ControlError, What};
pub use once::{Done, Once, RequestKey};
pub use seal::SealingKey;
pub use step::Step;
pub use streams::{MAX_CALLS, MAX_STREAMS, StreamPermit};
pub use uses::InUse;
