//! The control plane's database, and the only SQL.
//!
//! How it works: [`Store`] reads through a small pool and writes through one connection, so that what would be a lock error is a
//! queue. Changes are methods of [`WriteTransaction`], so that a change, its audit row and its intent are one transaction or
//! none. The SQL is portable (`$1`, RETURNING, ON CONFLICT; TEXT, BIGINT, BOOLEAN): SQLite now, PostgreSQL as soon as an issue names it.
//!
//! Deliberately absent: rules, and types of the database library in any signature.

mod accounts;
mod audit;
mod db;
mod error;
mod events;
mod happenings;
mod idempotency;
mod metrics;
mod migrations;
mod operations;
mod rows;
mod sandboxes;
mod step;
mod templates;

pub use accounts::NewKey;
pub use audit::StoredAudit;
pub use db::{Store, WriteTransaction};
pub use error::StoreError;
pub use idempotency::{KeptRequest, KeyPlace, exec_route};
pub use operations::{Operation, OperationKind};
pub use sandboxes::{Page, Position};
pub use step::Step;
