//! Who asked for a call.
//!
//! How it works: a column is added; what an older binary does not know has a default.
//!
//! Deliberately absent: a way back.

use sea_orm_migration::prelude::*;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0005_principals"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.get_connection().execute_unprepared("ALTER TABLE operations ADD COLUMN principal TEXT").await.map(drop)
    }
}
