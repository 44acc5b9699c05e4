//! Requests that were made under an idempotency key.
//!
//! How it works: a key is taken in the transaction that begins what was asked for, and names what came of it; the outcome itself lives with that. A key
//! belongs to a team and a route.
//!
//! Deliberately absent: stored answers.

use atoll_domain::{SandboxId, TeamId};

use sea_orm::QueryResult;

use crate::rows::{get, parse};
use crate::{Store, StoreError, WriteTransaction};

/// Where a key belongs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyPlace {
    /// Whose it is.
    pub team: TeamId,
    /// What was asked for, such as `create`.
    pub route: String,
    /// The key itself.
    pub key: String,
}

/// The route of what is started in a sandbox. Its keys go with it.
pub fn exec_route(sandbox: &SandboxId) -> String {
    format!("exec {sandbox}")
}

/// What a key was used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptRequest {
    /// Digest of the request.
    pub digest: String,
    /// What is made by it.
    pub subject: String,
    /// What is to be answered again, where that is not kept with the subject.
    pub outcome: Option<String>,
    /// When it was made, on the clock by which keys age; no date.
    pub at: i64,
}

fn read(row: &QueryResult) -> Result<KeptRequest, StoreError> {
    Ok(KeptRequest {
        digest: get(row, "digest")?,
        subject: get(row, "subject")?,
        outcome: get(row, "outcome")?,
        at: get(row, "created_at")?,
    })
}

impl Store {
    /// What a key was used for since a time.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn kept_request(&self, place: &KeyPlace, since: i64) -> Result<Option<KeptRequest>, StoreError> {
        let sql = "SELECT digest, subject, outcome, created_at FROM idempotency_keys \
                   WHERE team_id = $1 AND route = $2 AND key = $3 AND created_at >= $4";
        let values =
            vec![place.team.as_str().into(), place.route.as_str().into(), place.key.as_str().into(), since.into()];
        let row = self.row("read an idempotency key", sql, values).await?;
        row.as_ref().map(read).transpose()
    }

    /// Every key that is kept, whosever it is, by route and key.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn kept_requests(&self) -> Result<Vec<(KeyPlace, KeptRequest)>, StoreError> {
        let rows = self.rows("read idempotency keys", "SELECT * FROM idempotency_keys ORDER BY route, key", vec![]);
        let with_place = |row: &QueryResult| {
            let team = parse(row, "team_id", |text| text.parse().ok())?;
            Ok((KeyPlace { team, route: get(row, "route")?, key: get(row, "key")? }, read(row)?))
        };
        rows.await?.iter().map(with_place).collect()
    }

    /// When the newest key was made; none when there is no key.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn newest_request(&self) -> Result<Option<i64>, StoreError> {
        let sql = "SELECT MAX(created_at) AS newest FROM idempotency_keys";
        let row = self.row("read the newest idempotency key", sql, vec![]).await?;
        row.map_or(Ok(None), |row| get(&row, "newest"))
    }
}

impl WriteTransaction {
    /// Takes a key; answers false when it is taken. Keys older than `since` are forgotten, whosever they are.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn keep_request(&self, place: &KeyPlace, kept: &KeptRequest, since: i64) -> Result<bool, StoreError> {
        let old = "DELETE FROM idempotency_keys WHERE created_at < $1";
        self.execute("forget old idempotency keys", old, vec![since.into()]).await?;
        let sql = "INSERT INTO idempotency_keys (team_id, route, key, digest, subject, outcome, created_at) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING";
        let values = vec![
            place.team.as_str().into(),
            place.route.as_str().into(),
            place.key.as_str().into(),
            kept.digest.as_str().into(),
            kept.subject.as_str().into(),
            kept.outcome.clone().into(),
            kept.at.into(),
        ];
        Ok(self.execute("take an idempotency key", sql, values).await? == 1)
    }

    /// Notes what is to be answered again.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn note_outcome(&self, place: &KeyPlace, outcome: &str) -> Result<(), StoreError> {
        let sql = "UPDATE idempotency_keys SET outcome = $4 WHERE team_id = $1 AND route = $2 AND key = $3";
        let values =
            vec![place.team.as_str().into(), place.route.as_str().into(), place.key.as_str().into(), outcome.into()];
        self.execute("note an outcome", sql, values).await.map(drop)
    }

    /// Forgets what was started in a sandbox under keys: nothing can be asked of it any more.
    pub(crate) async fn forget_execs(&self, sandbox: &SandboxId) -> Result<(), StoreError> {
        let sql = "DELETE FROM idempotency_keys WHERE route = $1";
        self.execute("forget a sandbox's idempotency keys", sql, vec![exec_route(sandbox).into()]).await.map(drop)
    }

    /// Gives a key back that was used for this subject, because nothing came of it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget_request(&self, place: &KeyPlace, subject: &str) -> Result<(), StoreError> {
        let sql = "DELETE FROM idempotency_keys WHERE team_id = $1 AND route = $2 AND key = $3 AND subject = $4";
        let values =
            vec![place.team.as_str().into(), place.route.as_str().into(), place.key.as_str().into(), subject.into()];
        self.execute("give an idempotency key back", sql, values).await.map(drop)
    }
}
