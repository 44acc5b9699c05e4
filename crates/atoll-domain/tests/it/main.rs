//! The rules, by property.

mod actor;
mod ids;
mod metrics;
mod ttl;
mod validate;
