//! Calls to hosts: written down before they are made, finished with their outcome.
//!
//! How it works: a row is begun in the transaction of the intent and closed in that of the outcome; what is open at a
//! start was cut off.
//!
//! Deliberately absent: calls that are over: rows say when, nothing more.

use atoll_domain::host::Call;
use atoll_domain::{OperationId, Principal, SandboxId};

use crate::rows::{get, parse};
use crate::{Store, StoreError, WriteTransaction};

/// What a call is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationKind {
    /// Make a sandbox.
    Create,
    /// End one.
    Destroy,
    /// Put one on its host's disk.
    Pause,
    /// Let a paused one go on.
    Resume,
    /// Give one new limits.
    Lifetime,
    /// Make a template of one.
    Snapshot,
    /// Ask for what a paused one used.
    Metrics,
}

impl OperationKind {
    const ALL: [Self; 7] =
        [Self::Create, Self::Destroy, Self::Pause, Self::Resume, Self::Lifetime, Self::Snapshot, Self::Metrics];

    fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Destroy => "destroy",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Lifetime => "lifetime",
            Self::Snapshot => "snapshot",
            Self::Metrics => "metrics",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// A call that was begun and not finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// The sandbox it is about.
    pub sandbox: SandboxId,
    /// What it is to do.
    pub kind: OperationKind,
    /// What else it is about: the id of the template that a snapshot makes.
    pub subject: Option<String>,
}

impl Store {
    /// Everything that was begun and not finished.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn open_operations(&self) -> Result<Vec<Operation>, StoreError> {
        let sql =
            "SELECT id, sandbox_id, kind, subject FROM operations WHERE finished_at IS NULL ORDER BY created_at, id";
        let rows = self.rows("read open calls", sql, vec![]).await?;
        let read = |row: &sea_orm::QueryResult| {
            Ok(Operation {
                id: parse(row, "id", |t| t.parse().ok())?,
                sandbox: parse(row, "sandbox_id", |t| t.parse().ok())?,
                kind: parse(row, "kind", OperationKind::parse)?,
                subject: get(row, "subject")?,
            })
        };
        rows.iter().map(read).collect()
    }

    /// Who asked for a call; none when that was not written down, or by a version that tells of it otherwise.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn asked_by(&self, id: &OperationId) -> Result<Option<Principal>, StoreError> {
        let sql = "SELECT principal FROM operations WHERE id = $1";
        let Some(row) = self.row("read a call", sql, vec![id.as_str().into()]).await? else { return Ok(None) };
        let text: Option<String> = get(&row, "principal")?;
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }
}

impl WriteTransaction {
    /// Writes a call down before it is made.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn begin_operation(
        &self,
        call: &Call,
        sandbox: &SandboxId,
        kind: OperationKind,
        at: i64,
    ) -> Result<(), StoreError> {
        self.begin_operation_on(call, sandbox, kind, None, at).await
    }

    /// The same of a call that is about something besides its sandbox.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn begin_operation_on(
        &self,
        call: &Call,
        sandbox: &SandboxId,
        kind: OperationKind,
        subject: Option<&str>,
        at: i64,
    ) -> Result<(), StoreError> {
        let sql = "INSERT INTO operations (id, sandbox_id, kind, incarnation, created_at, subject) \
                   VALUES ($1, $2, $3, $4, $5, $6)";
        let incarnation = i64::try_from(call.incarnation.0).unwrap_or(i64::MAX);
        let values = vec![
            call.operation.as_str().into(),
            sandbox.as_str().into(),
            kind.as_str().into(),
            incarnation.into(),
            at.into(),
            subject.into(),
        ];
        self.execute("write a call down", sql, values).await.map(drop)
    }

    /// Notes who asked for a call.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn note_asker(&self, id: &OperationId, principal: &Principal) -> Result<(), StoreError> {
        let sql = "UPDATE operations SET principal = $2 WHERE id = $1";
        let text = serde_json::to_string(principal).ok();
        self.execute("note who asked", sql, vec![id.as_str().into(), text.into()]).await.map(drop)
    }

    /// Notes that a call has its outcome.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn finish_operation(&self, id: &OperationId, at: i64) -> Result<(), StoreError> {
        let sql = "UPDATE operations SET finished_at = $2 WHERE id = $1";
        self.execute("finish a call", sql, vec![id.as_str().into(), at.into()]).await.map(drop)
    }

    /// Whether somebody's destroy of a sandbox is under way.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn is_being_destroyed(&self, sandbox: &SandboxId) -> Result<bool, StoreError> {
        let sql =
            "SELECT id FROM operations WHERE sandbox_id = $1 AND kind = 'destroy' AND finished_at IS NULL LIMIT 1";
        Ok(self.row("read open calls", sql, vec![sandbox.as_str().into()]).await?.is_some())
    }
}
