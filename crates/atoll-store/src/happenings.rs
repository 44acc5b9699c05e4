//! What happened to a sandbox, for its owner: `GET /v1/sandboxes/{id}/events`.
//!
//! How it works: written in the transaction of the change that it tells of, like the audit log, and never changed afterwards.
//!
//! Deliberately absent: who did it; that is the audit log's.

use atoll_domain::happening::{Happening, HappeningKind};
use atoll_domain::{Incarnation, SandboxId};
use sea_orm::QueryResult;

use crate::rows::{get, parse};
use crate::{Store, StoreError, WriteTransaction};

impl Store {
    /// The newest of a sandbox, the newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn happenings(&self, sandbox: &SandboxId, limit: u32) -> Result<Vec<Happening>, StoreError> {
        let sql = "SELECT incarnation, kind, reason, created_at FROM sandbox_events WHERE sandbox_id = $1 \
                   ORDER BY created_at DESC, id DESC LIMIT $2";
        let rows = self.rows("read a history", sql, vec![sandbox.as_str().into(), i64::from(limit).into()]).await?;
        rows.iter().map(read).collect()
    }
}

fn read(row: &QueryResult) -> Result<Happening, StoreError> {
    let incarnation: i64 = get(row, "incarnation")?;
    Ok(Happening {
        at: get(row, "created_at")?,
        incarnation: Incarnation(incarnation.unsigned_abs()),
        kind: parse(row, "kind", HappeningKind::parse)?,
        reason: get(row, "reason")?,
    })
}

impl WriteTransaction {
    /// The newest of a kind.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn last_happening(
        &self,
        sandbox: &SandboxId,
        kind: HappeningKind,
    ) -> Result<Option<Happening>, StoreError> {
        let sql = "SELECT incarnation, kind, reason, created_at FROM sandbox_events WHERE sandbox_id = $1 AND kind = $2 \
                   ORDER BY created_at DESC, id DESC LIMIT 1";
        let row = self.row("read a history", sql, vec![sandbox.as_str().into(), kind.as_str().into()]).await?;
        row.as_ref().map(read).transpose()
    }

    /// Appends what happened to a sandbox.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn happened(&self, sandbox: &SandboxId, happening: &Happening) -> Result<(), StoreError> {
        let sql = "INSERT INTO sandbox_events (id, sandbox_id, incarnation, kind, reason, created_at) \
                   VALUES ($1, $2, $3, $4, $5, $6)";
        let values = vec![
            // Version 7 sorts by time, so rows of one microsecond keep their order.
            format!("ev-{}", uuid::Uuid::now_v7().simple()).into(),
            sandbox.as_str().into(),
            i64::try_from(happening.incarnation.0).unwrap_or(i64::MAX).into(),
            happening.kind.as_str().into(),
            happening.reason.as_deref().map(|reason| reason.chars().take(500).collect::<String>()).into(),
            happening.at.into(),
        ];
        self.execute("append to a history", sql, values).await.map(drop)
    }
}
