//! The schema's history.
//!
//! How it works: append-only; a released migration is never edited. A change that an older binary must survive is made in two: first
//! what is added, a release later what is taken away.
//!
//! Deliberately absent: going back: an older binary refuses a newer schema.

use sea_orm_migration::{MigrationTrait, MigratorTrait};

mod m0001_initial;
mod m0002_idempotency;
mod m0003_life;
mod m0004_pause;
mod m0005_principals;
mod m0006_lifetime_revision;

pub(crate) struct Migrator;

#[sea_orm_migration::async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_initial::Migration),
            Box::new(m0002_idempotency::Migration),
            Box::new(m0003_life::Migration),
            Box::new(m0004_pause::Migration),
            Box::new(m0005_principals::Migration),
            Box::new(m0006_lifetime_revision::Migration),
        ]
    }
}
