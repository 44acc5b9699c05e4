//! The rules, by property.

mod actor;
mod ids;
mod validate;
