//! Processes: starting them, holding their output, telling how they ended.
//!
//! How it works: [`start`] makes one and leaves a task behind that owns it ([`tend`]); [`Table`] finds it again;
//! [`service`] is the wire.
//!
//! Deliberately absent: a tie to the request that started it.

pub(crate) mod child;
mod follow;
mod input;
pub(crate) mod launch;
mod record;
mod ring;
pub(crate) mod service;
mod start;
mod table;
mod tend;

pub(crate) use table::Table;
