//! The rules, by property.

mod actor;
mod golden;
mod ids;
mod metrics;
mod objects;
mod snapshot;
mod ttl;
mod validate;
