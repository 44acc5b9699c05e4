//! What pausing and resuming need: a sandbox's sealed secrets, and what a call is about besides its sandbox.
//!
//! How it works: columns are added; what an older binary does not know has a default.
//!
//! Deliberately absent: a way back.

use sea_orm_migration::prelude::*;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0004_pause"
    }
}

const CHANGES: &[&str] = &[
    "ALTER TABLE sandboxes ADD COLUMN secrets TEXT",
    // The id of the template that a call makes.
    "ALTER TABLE operations ADD COLUMN subject TEXT",
    // Whose agent a template's copies have, and its token, sealed.
    "ALTER TABLE templates ADD COLUMN source_id TEXT",
    "ALTER TABLE templates ADD COLUMN source_secrets TEXT",
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for change in CHANGES {
            manager.get_connection().execute_unprepared(change).await?;
        }
        Ok(())
    }
}
