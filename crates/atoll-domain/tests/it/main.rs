//! The rules, by property.

mod actor;
mod admission;
mod golden;
mod ids;
mod metrics;
mod objects;
mod pause;
mod reconcile;
mod snapshot;
mod ttl;
mod validate;
