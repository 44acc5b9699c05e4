//! The rules of Atoll that can be decided without I/O.
//!
//! How it works: plain data and pure functions. Everything that happens (a clock reading, a random number, a host's
//! answer) comes in as an argument, everything that shall happen goes out as a value. So each rule is property-tested
//! here and nowhere else.
//!
//! Deliberately absent: async, I/O, clocks, the environment, logging, databases, HTTP.

pub mod access;
pub mod actor;
pub mod admission;
pub mod audit;
pub mod golden;
pub mod happening;
pub mod host;
pub mod ids;
pub mod metrics;
pub mod objects;
pub mod reconcile;
pub mod record;
pub mod recovery;
pub mod sandbox;
pub mod scrub;
pub mod snapshot;
pub mod ttl;
pub mod validate;

pub use access::{Action, Principal, Role};
pub use ids::{HostId, Incarnation, InstanceId, KeyId, OperationId, RequestId, SandboxId, TeamId, UserId};
pub use sandbox::{Network, SandboxStatus, Shape};
pub use validate::Invalid;
