//! What a sandbox's life needs: its limits, what is kept of a paused one, templates, metric points, and what happened to it.
//!
//! How it works: columns are added and tables made; what an older binary does not know has a default.
//!
//! Deliberately absent: a way back.

use sea_orm_migration::prelude::*;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0003_life"
    }
}

const CHANGES: &[&str] = &[
    "ALTER TABLE sandboxes ADD COLUMN end_at BIGINT",
    "ALTER TABLE sandboxes ADD COLUMN on_expiry TEXT NOT NULL DEFAULT 'pause'",
    "ALTER TABLE sandboxes ADD COLUMN auto_resume BOOLEAN NOT NULL DEFAULT FALSE",
    "ALTER TABLE sandboxes ADD COLUMN max_lifetime_sec BIGINT NOT NULL DEFAULT 0",
    "ALTER TABLE sandboxes ADD COLUMN paused TEXT",
    "CREATE TABLE templates (id TEXT PRIMARY KEY, team_id TEXT NOT NULL, host_id TEXT NOT NULL, name TEXT NOT NULL, \
     kind TEXT NOT NULL, vcpus BIGINT NOT NULL, memory_mb BIGINT NOT NULL, disk_mb BIGINT NOT NULL, \
     size_bytes BIGINT NOT NULL, objects TEXT NOT NULL, created_at BIGINT NOT NULL, removed_at BIGINT)",
    // A name is free again as soon as its template is on the way out, so that an overwrite is one transaction.
    "CREATE UNIQUE INDEX templates_name ON templates (team_id, name) WHERE removed_at IS NULL",
    "CREATE TABLE sandbox_metric_points (sandbox_id TEXT NOT NULL, tier TEXT NOT NULL, ts_ms BIGINT NOT NULL, \
     cpu_pct DOUBLE PRECISION NOT NULL, mem_bytes BIGINT NOT NULL, disk_bytes BIGINT NOT NULL, guest_mem_bytes BIGINT, \
     guest_disk_bytes BIGINT, PRIMARY KEY (sandbox_id, tier, ts_ms))",
    "CREATE TABLE sandbox_events (id TEXT PRIMARY KEY, sandbox_id TEXT NOT NULL, incarnation BIGINT NOT NULL, \
     kind TEXT NOT NULL, reason TEXT, created_at BIGINT NOT NULL)",
    "CREATE INDEX sandbox_events_sandbox ON sandbox_events (sandbox_id, created_at, id)",
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
