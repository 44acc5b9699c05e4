//! How often a sandbox's limits were changed.
//!
//! How it works: a column is added; what an older binary does not know has a default.
//!
//! Deliberately absent: a way back.

use sea_orm_migration::prelude::*;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0006_lifetime_revision"
    }
}

const CHANGE: &str = "ALTER TABLE sandboxes ADD COLUMN lifetime_revision BIGINT NOT NULL DEFAULT 0";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared(CHANGE).await.map(drop)
    }
}
