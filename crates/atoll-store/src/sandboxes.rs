//! Sandboxes.
//!
//! How it works: one row a sandbox; changes of status are conditional updates that say whether they applied, so that of
//! two only one counts. Lists go by time and id.
//!
//! Deliberately absent: deleting: what is over stays and answers.

use atoll_domain::host::SandboxFacts;
use atoll_domain::record::{Paused, Sandbox};
use atoll_domain::ttl::{Lifetime, OnExpiry};
use atoll_domain::{HostId, Incarnation, Network, SandboxId, SandboxStatus, Shape, TeamId};
use sea_orm::{QueryResult, Value};

use crate::rows::{get, parse, unsigned};
use crate::{Store, StoreError, WriteTransaction};

/// Where a page begins: behind this row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The row's time.
    pub created_at: i64,
    /// The row's id, because several may have one time.
    pub id: SandboxId,
}

/// A page of a list.
#[derive(Debug, Clone)]
pub struct Page {
    /// The rows, the newest first.
    pub items: Vec<Sandbox>,
    /// Where the next one begins; none on the last.
    pub next: Option<Position>,
}

fn read(row: &QueryResult) -> Result<Sandbox, StoreError> {
    let incarnation: i64 = get(row, "incarnation")?;
    Ok(Sandbox {
        id: parse(row, "id", |t| t.parse().ok())?,
        team: parse(row, "team_id", |t| t.parse().ok())?,
        host: parse(row, "host_id", |t| t.parse().ok())?,
        template: get(row, "template")?,
        status: parse(row, "status", SandboxStatus::parse)?,
        reason: get(row, "reason")?,
        incarnation: Incarnation(incarnation.unsigned_abs()),
        shape: Shape {
            vcpus: unsigned(row, "vcpus")?,
            memory_mb: unsigned(row, "memory_mb")?,
            disk_mb: unsigned(row, "disk_mb")?,
        },
        network: parse(row, "network", Network::parse)?,
        lifetime: Lifetime {
            timeout_sec: unsigned(row, "timeout_sec")?,
            end_at: get(row, "end_at")?,
            on_expiry: parse(row, "on_expiry", OnExpiry::parse)?,
            auto_resume: get(row, "auto_resume")?,
            max_lifetime_sec: unsigned(row, "max_lifetime_sec")?,
        },
        lifetime_revision: get::<i64>(row, "lifetime_revision")?.unsigned_abs(),
        paused: match get::<Option<String>>(row, "paused")? {
            None => None,
            Some(_) => Some(parse(row, "paused", |text| serde_json::from_str(text).ok())?),
        },
        metadata: parse(row, "metadata", |text| serde_json::from_str(text).ok())?,
        guest_ip: get(row, "guest_ip")?,
        host_ip: get(row, "host_ip")?,
        created_at: get(row, "created_at")?,
        started_at: get(row, "started_at")?,
        last_active_at: get(row, "last_active_at")?,
        last_updated: get(row, "last_updated")?,
    })
}

/// The values of a statement that sets limits.
fn limits(id: &SandboxId, lifetime: &Lifetime, at: i64) -> Vec<Value> {
    vec![
        id.as_str().into(),
        i64::from(lifetime.timeout_sec).into(),
        lifetime.end_at.into(),
        lifetime.on_expiry.as_str().into(),
        lifetime.auto_resume.into(),
        i64::from(lifetime.max_lifetime_sec).into(),
        at.into(),
    ]
}

impl Store {
    /// One sandbox, whatever its status.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sandbox(&self, id: &SandboxId) -> Result<Option<Sandbox>, StoreError> {
        let row = self.row("read a sandbox", "SELECT * FROM sandboxes WHERE id = $1", vec![id.as_str().into()]).await?;
        row.as_ref().map(read).transpose()
    }

    /// A team's sandboxes that are not over, the newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sandboxes(&self, team: &TeamId, after: Option<&Position>, limit: u32) -> Result<Page, StoreError> {
        let newest = (i64::MAX, String::new());
        let (at, id) = after.map_or(newest, |p| (p.created_at, p.id.to_string()));
        let sql = "SELECT * FROM sandboxes WHERE team_id = $1 AND status NOT IN ('stopped', 'error') \
                   AND (created_at < $2 OR (created_at = $2 AND id < $3)) ORDER BY created_at DESC, id DESC LIMIT $4";
        // One more than asked for tells whether there is another page.
        let most = i64::from(limit) + 1;
        let rows =
            self.rows("list sandboxes", sql, vec![team.as_str().into(), at.into(), id.into(), most.into()]).await?;
        let mut items = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let more = items.len() > usize::try_from(limit).unwrap_or(usize::MAX);
        items.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        let next = items.last().filter(|_| more).map(|s| Position { created_at: s.created_at, id: s.id.clone() });
        Ok(Page { items, next })
    }

    /// Everything on a host that is not over.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn sandboxes_on(&self, host: &HostId) -> Result<Vec<Sandbox>, StoreError> {
        let sql = "SELECT * FROM sandboxes WHERE host_id = $1 AND status NOT IN ('stopped', 'error')";
        let rows = self.rows("read a host's sandboxes", sql, vec![host.as_str().into()]).await?;
        rows.iter().map(read).collect()
    }
}

impl Store {
    /// A sandbox's secrets, sealed; none when there are none, or when it is over.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn secrets(&self, id: &SandboxId) -> Result<Option<String>, StoreError> {
        let sql = "SELECT secrets FROM sandboxes WHERE id = $1";
        let row = self.row("read secrets", sql, vec![id.as_str().into()]).await?;
        row.map_or(Ok(None), |row| get(&row, "secrets"))
    }
}

impl WriteTransaction {
    /// Keeps a new sandbox.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn insert_sandbox(&self, sandbox: &Sandbox) -> Result<(), StoreError> {
        let sql = "INSERT INTO sandboxes (id, team_id, host_id, template, status, incarnation, vcpus, memory_mb, disk_mb, \
                   network, timeout_sec, metadata, created_at, last_updated, end_at, on_expiry, auto_resume, max_lifetime_sec) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)";
        let shape = sandbox.shape;
        let values = vec![
            sandbox.id.as_str().into(),
            sandbox.team.as_str().into(),
            sandbox.host.as_str().into(),
            sandbox.template.as_str().into(),
            sandbox.status.as_str().into(),
            i64::try_from(sandbox.incarnation.0).unwrap_or(i64::MAX).into(),
            i64::from(shape.vcpus).into(),
            i64::from(shape.memory_mb).into(),
            i64::from(shape.disk_mb).into(),
            sandbox.network.as_str().into(),
            i64::from(sandbox.lifetime.timeout_sec).into(),
            serde_json::to_string(&sandbox.metadata).unwrap_or_else(|_| "{}".into()).into(),
            sandbox.created_at.into(),
            sandbox.last_updated.into(),
            sandbox.lifetime.end_at.into(),
            sandbox.lifetime.on_expiry.as_str().into(),
            sandbox.lifetime.auto_resume.into(),
            i64::from(sandbox.lifetime.max_lifetime_sec).into(),
        ];
        self.execute("insert a sandbox", sql, values).await.map(drop)
    }

    /// Keeps a sandbox's secrets, sealed.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn keep_secrets(&self, id: &SandboxId, sealed: &str) -> Result<(), StoreError> {
        let sql = "UPDATE sandboxes SET secrets = $2 WHERE id = $1 AND status NOT IN ('stopped', 'error')";
        self.execute("keep secrets", sql, vec![id.as_str().into(), sealed.into()]).await.map(drop)
    }

    /// Notes that a pending (or missing) sandbox runs; answers false when it is neither any more.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn mark_running(&self, facts: &SandboxFacts, at: i64) -> Result<bool, StoreError> {
        let sql = "UPDATE sandboxes SET status = 'running', reason = NULL, guest_ip = $2, host_ip = $3, started_at = $4, \
                   last_active_at = $4, last_updated = $4 WHERE id = $1 AND status IN ('pending', 'missing')";
        let values =
            vec![facts.id.as_str().into(), facts.guest_ip.clone().into(), facts.host_ip.clone().into(), at.into()];
        Ok(self.execute("mark a sandbox running", sql, values).await? == 1)
    }

    /// Notes that a sandbox is over (`stopped` or `error`), and forgets the keys under which something was started in it; answers false when it was before, or is in a later life.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn mark_over(
        &self,
        id: &SandboxId,
        incarnation: Incarnation,
        status: SandboxStatus,
        reason: &str,
        at: i64,
    ) -> Result<bool, StoreError> {
        let only_pending = if status == SandboxStatus::Error { " AND status = 'pending'" } else { "" };
        let sql = format!(
            "UPDATE sandboxes SET status = $2, reason = $3, paused = NULL, secrets = NULL, guest_ip = NULL, host_ip = NULL, last_updated = $4 \
             WHERE id = $1 AND incarnation <= $5 AND status NOT IN ('stopped', 'error'){only_pending}"
        );
        let reason: Value = reason.chars().take(500).collect::<String>().into();
        let incarnation = i64::try_from(incarnation.0).unwrap_or(i64::MAX);
        let values = vec![id.as_str().into(), status.as_str().into(), reason, at.into(), incarnation.into()];
        let is_over = self.execute("mark a sandbox over", &sql, values).await? == 1;
        if is_over {
            self.forget_execs(id).await?;
        }
        Ok(is_over)
    }

    /// Takes new limits over, and answers the number of this change; none when the sandbox is over.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_lifetime(&self, id: &SandboxId, lifetime: &Lifetime, at: i64) -> Result<Option<u64>, StoreError> {
        let sql = "UPDATE sandboxes SET timeout_sec = $2, end_at = $3, on_expiry = $4, auto_resume = $5, \
                   max_lifetime_sec = $6, last_updated = $7, lifetime_revision = lifetime_revision + 1 \
                   WHERE id = $1 AND status NOT IN ('stopped', 'error')";
        if self.execute("change a sandbox's limits", sql, limits(id, lifetime, at)).await? == 0 {
            return Ok(None);
        }
        let sql = "SELECT lifetime_revision FROM sandboxes WHERE id = $1";
        let row = self.row("read a sandbox's limits", sql, vec![id.as_str().into()]).await?;
        row.map(|row| Ok(get::<i64>(&row, "lifetime_revision")?.unsigned_abs())).transpose()
    }

    /// Puts limits back that a host refused to change; answers false when a newer change has been made since, which is not to be undone.
    /// The number stays, so that none is given to two changes.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn put_lifetime_back(
        &self,
        id: &SandboxId,
        refused: u64,
        before: &Lifetime,
        at: i64,
    ) -> Result<bool, StoreError> {
        let sql = "UPDATE sandboxes SET timeout_sec = $2, end_at = $3, on_expiry = $4, auto_resume = $5, \
                   max_lifetime_sec = $6, last_updated = $7 \
                   WHERE id = $1 AND lifetime_revision = $8 AND status NOT IN ('stopped', 'error')";
        let mut values = limits(id, before, at);
        values.push(i64::try_from(refused).unwrap_or(i64::MAX).into());
        Ok(self.execute("put a sandbox's limits back", sql, values).await? == 1)
    }

    /// Notes that a sandbox is paused in the life that its host says; answers false when it is over, was never running, is in a later
    /// life, or was paused in this one before.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn mark_paused(
        &self,
        id: &SandboxId,
        incarnation: Incarnation,
        paused: &Paused,
        at: i64,
    ) -> Result<bool, StoreError> {
        let sql = "UPDATE sandboxes SET status = 'paused', reason = NULL, paused = $2, incarnation = $4, guest_ip = NULL, \
                   host_ip = NULL, last_updated = $3 WHERE id = $1 AND \
                   ((status IN ('running', 'missing') AND incarnation <= $4) OR (status = 'paused' AND incarnation < $4))";
        let kept = serde_json::to_string(paused).unwrap_or_else(|_| "null".into());
        let incarnation = i64::try_from(incarnation.0).unwrap_or(i64::MAX);
        let values = vec![id.as_str().into(), kept.into(), at.into(), incarnation.into()];
        Ok(self.execute("mark a sandbox paused", sql, values).await? == 1)
    }

    /// Takes over what is still kept of a sandbox that is paused in that life; answers false when it is in no such pause.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn note_kept(
        &self,
        id: &SandboxId,
        incarnation: Incarnation,
        paused: &Paused,
        at: i64,
    ) -> Result<bool, StoreError> {
        let sql = "UPDATE sandboxes SET paused = $2, last_updated = $3 \
                   WHERE id = $1 AND status = 'paused' AND incarnation = $4";
        let kept = serde_json::to_string(paused).unwrap_or_else(|_| "null".into());
        let incarnation = i64::try_from(incarnation.0).unwrap_or(i64::MAX);
        let values = vec![id.as_str().into(), kept.into(), at.into(), incarnation.into()];
        Ok(self.execute("note what is kept of a sandbox", sql, values).await? == 1)
    }

    /// Notes that a paused sandbox runs again, in the life that its host says; answers false when it is not paused, or was resumed
    /// before.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn mark_resumed(&self, facts: &SandboxFacts, at: i64) -> Result<bool, StoreError> {
        let sql = "UPDATE sandboxes SET status = 'running', reason = NULL, paused = NULL, incarnation = $5, guest_ip = $2, \
                   host_ip = $3, last_active_at = $4, last_updated = $4 \
                   WHERE id = $1 AND status = 'paused' AND incarnation < $5";
        let values = vec![
            facts.id.as_str().into(),
            facts.guest_ip.clone().into(),
            facts.host_ip.clone().into(),
            at.into(),
            i64::try_from(facts.incarnation.0).unwrap_or(i64::MAX).into(),
        ];
        Ok(self.execute("mark a sandbox resumed", sql, values).await? == 1)
    }

    /// Notes when a sandbox was used last; never backwards.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn touch(&self, id: &SandboxId, at: i64) -> Result<(), StoreError> {
        let sql = "UPDATE sandboxes SET last_active_at = $2 WHERE id = $1 AND (last_active_at IS NULL OR last_active_at < $2)";
        self.execute("note a use", sql, vec![id.as_str().into(), at.into()]).await.map(drop)
    }
}
