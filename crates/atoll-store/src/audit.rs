//! The audit log: append-only, written in the transaction of the change that it tells of.
//!
//! How it works: an insert on the transaction of the change; the newest rows of a team on the store.
//!
//! Deliberately absent: changing or removing rows.

use std::collections::BTreeMap;

use atoll_domain::TeamId;
use atoll_domain::record::AuditEntry;

use crate::rows::{get, parse};
use crate::{Store, StoreError, WriteTransaction};

/// A row as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAudit {
    /// Who.
    pub actor_type: String,
    /// By which id.
    pub actor_id: Option<String>,
    /// To what kind of thing.
    pub resource_type: String,
    /// To which.
    pub resource_id: Option<String>,
    /// What.
    pub action: String,
    /// How it is marked.
    pub status: String,
    /// Details.
    pub metadata: BTreeMap<String, String>,
    /// When.
    pub at: i64,
}

impl Store {
    /// The newest rows of a team, the newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn audit(&self, team: &TeamId, limit: u32) -> Result<Vec<StoredAudit>, StoreError> {
        let sql = "SELECT * FROM audit_logs WHERE team_id = $1 ORDER BY created_at DESC, id DESC LIMIT $2";
        let rows = self.rows("read the audit log", sql, vec![team.as_str().into(), i64::from(limit).into()]).await?;
        let read = |row: &sea_orm::QueryResult| {
            Ok(StoredAudit {
                actor_type: get(row, "actor_type")?,
                actor_id: get(row, "actor_id")?,
                resource_type: get(row, "resource_type")?,
                resource_id: get(row, "resource_id")?,
                action: get(row, "action")?,
                status: get(row, "status")?,
                metadata: parse(row, "metadata", |text| serde_json::from_str(text).ok())?,
                at: get(row, "created_at")?,
            })
        };
        rows.iter().map(read).collect()
    }
}

impl WriteTransaction {
    /// Appends a row.
    ///
    /// # Errors
    /// When the database fails; the transaction must then be dropped.
    pub async fn audit(&self, entry: &AuditEntry) -> Result<(), StoreError> {
        let sql = "INSERT INTO audit_logs (id, team_id, actor_type, actor_id, actor_name, resource_type, resource_id, action, \
                   scope, status, metadata, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";
        let (resource, action) = entry.action.names();
        let values = vec![
            // Version 7 sorts by time, so rows of one microsecond keep their order.
            format!("log-{}", uuid::Uuid::now_v7().simple()).into(),
            entry.team.as_str().into(),
            entry.actor_type.into(),
            entry.actor_id.clone().into(),
            entry.actor_name.clone().into(),
            resource.into(),
            entry.resource_id.as_str().into(),
            action.into(),
            entry.action.scope().into(),
            entry.action.status().as_str().into(),
            serde_json::to_string(&entry.metadata).unwrap_or_else(|_| "{}".into()).into(),
            entry.at.into(),
        ];
        self.execute("append to the audit log", sql, values).await.map(drop)
    }
}
