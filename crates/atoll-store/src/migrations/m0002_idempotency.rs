//! Requests that were made under an idempotency key.
//!
//! How it works: one table, keyed by team, route and key, with an index by age.
//!
//! Deliberately absent: answers; they are written anew from what was made.

use sea_orm_migration::prelude::*;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0002_idempotency"
    }
}

const TABLES: &[&str] = &[
    "CREATE TABLE idempotency_keys (team_id TEXT NOT NULL, route TEXT NOT NULL, key TEXT NOT NULL, digest TEXT NOT NULL, \
     subject TEXT NOT NULL, outcome TEXT, created_at BIGINT NOT NULL, PRIMARY KEY (team_id, route, key))",
    "CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at)",
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in TABLES {
            manager.get_connection().execute_unprepared(table).await?;
        }
        Ok(())
    }
}
