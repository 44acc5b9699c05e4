//! Accounts, hosts, sandboxes, the audit log, calls under way.
//!
//! How it works: one list of statements, run once, in SQL that SQLite and PostgreSQL share.
//!
//! Deliberately absent: a way back.

use sea_orm_migration::prelude::*;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0001_initial"
    }
}

const TABLES: &[&str] = &[
    "CREATE TABLE users (id TEXT PRIMARY KEY, email TEXT NOT NULL UNIQUE, name TEXT NOT NULL, password_hash TEXT, \
     is_admin BOOLEAN NOT NULL, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL)",
    "CREATE TABLE teams (id TEXT PRIMARY KEY, name TEXT NOT NULL, slug TEXT NOT NULL UNIQUE, is_byoc BOOLEAN NOT NULL, \
     created_at BIGINT NOT NULL, deleted_at BIGINT)",
    "CREATE TABLE users_teams (team_id TEXT NOT NULL REFERENCES teams(id) ON DELETE CASCADE, \
     user_id TEXT NOT NULL REFERENCES users(id) ON DELETE CASCADE, role TEXT NOT NULL, is_default BOOLEAN NOT NULL, \
     created_at BIGINT NOT NULL, PRIMARY KEY (team_id, user_id))",
    "CREATE INDEX users_teams_user ON users_teams (user_id)",
    "CREATE TABLE team_api_keys (id TEXT PRIMARY KEY, team_id TEXT NOT NULL REFERENCES teams(id) ON DELETE CASCADE, \
     name TEXT NOT NULL, key_hash TEXT NOT NULL UNIQUE, key_prefix TEXT NOT NULL, created_by TEXT, \
     created_at BIGINT NOT NULL, last_used BIGINT)",
    "CREATE INDEX team_api_keys_team ON team_api_keys (team_id)",
    "CREATE TABLE hosts (id TEXT PRIMARY KEY, kind TEXT NOT NULL, team_id TEXT, status TEXT NOT NULL, \
     events_seen BIGINT NOT NULL, created_at BIGINT NOT NULL)",
    "CREATE TABLE sandboxes (id TEXT PRIMARY KEY, team_id TEXT NOT NULL, host_id TEXT NOT NULL, template TEXT NOT NULL, \
     status TEXT NOT NULL, reason TEXT, incarnation BIGINT NOT NULL, vcpus BIGINT NOT NULL, memory_mb BIGINT NOT NULL, \
     disk_mb BIGINT NOT NULL, network TEXT NOT NULL, timeout_sec BIGINT NOT NULL, metadata TEXT NOT NULL, guest_ip TEXT, \
     host_ip TEXT, created_at BIGINT NOT NULL, started_at BIGINT, last_active_at BIGINT, last_updated BIGINT NOT NULL)",
    "CREATE INDEX sandboxes_team ON sandboxes (team_id, created_at, id)",
    "CREATE INDEX sandboxes_host ON sandboxes (host_id, status)",
    "CREATE TABLE operations (id TEXT PRIMARY KEY, sandbox_id TEXT NOT NULL, kind TEXT NOT NULL, incarnation BIGINT NOT NULL, \
     created_at BIGINT NOT NULL, finished_at BIGINT)",
    "CREATE INDEX operations_open ON operations (finished_at, sandbox_id)",
    "CREATE TABLE audit_logs (id TEXT PRIMARY KEY, team_id TEXT NOT NULL, actor_type TEXT NOT NULL, actor_id TEXT, \
     actor_name TEXT, resource_type TEXT NOT NULL, resource_id TEXT, action TEXT NOT NULL, scope TEXT NOT NULL, \
     status TEXT NOT NULL, metadata TEXT NOT NULL, created_at BIGINT NOT NULL)",
    "CREATE INDEX audit_logs_team ON audit_logs (team_id, created_at, id)",
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
