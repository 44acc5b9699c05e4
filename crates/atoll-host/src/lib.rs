//! The host agent: runs sandboxes on one machine.
//!
//! How it works: [`HostAgent`] holds one actor per sandbox ([`actor`]), each the only owner of its keeper, VMM, network and files.
//! What an actor does is decided by `atoll_domain::actor`; what it is about to do stands in the sandbox's [`journal`] first, so
//! that the next start can finish or undo it ([`recovery`]). Images, kernel and the verdict on KVM are made ready once, in the
//! background ([`ready`]). What the machine does by itself is told through a numbered, persistent [`events`] stream.
//!
//! Deliberately absent: teams, keys, a database: the control plane's. They meet at `HostDriver`.

mod actor;
mod admission;
mod agent;
mod base;
mod clock;
mod config;
mod data_dir;
mod dial;
mod error;
mod events;
mod generation;
mod goldens;
mod history;
mod instance;
mod journal;
mod keepers;
mod kvm;
mod leftovers;
mod life;
mod metrics;
mod objects;
mod platform;
mod ready;
mod recovery;
#[cfg(test)]
mod samples;
mod scrub;
mod sealed;
mod shared;
mod signing;
mod single_flight;
mod sources;
mod stamp;
mod step;
mod whole;

pub use agent::{HostAgent, OnExit};
pub use config::{AcceleratorChoice, HostConfig};
pub use data_dir::{DataDir, Lock, chosen_pool};
pub use error::StartError;
pub use kvm::cached_kvm_verdict;
pub use leftovers::{Remains, remains};
pub use step::Step;
