//! Templates that teams made of their sandboxes.
//!
//! How it works: a name belongs to a team and stands for one template at a time. An overwrite inserts the new row and marks the old one
//! as on the way out in one transaction; a row that is on the way out keeps its objects until its host says that its references are
//! dropped, and only then goes.
//!
//! Deliberately absent: the platform's base templates; they are images, known to hosts.

use atoll_domain::objects::ObjectId;
use atoll_domain::record::{Template, TemplateKind};
use atoll_domain::{HostId, SandboxId, Shape, TeamId};
use sea_orm::QueryResult;

use crate::rows::{get, parse, unsigned};
use crate::{Store, StoreError, WriteTransaction};

const BY_NAME: &str = "SELECT * FROM templates WHERE team_id = $1 AND name = $2 AND removed_at IS NULL";

fn read(row: &QueryResult) -> Result<Template, StoreError> {
    let size: i64 = get(row, "size_bytes")?;
    let objects: Vec<String> = parse(row, "objects", |text| serde_json::from_str(text).ok())?;
    Ok(Template {
        id: get(row, "id")?,
        team: parse(row, "team_id", |t| t.parse().ok())?,
        host: parse(row, "host_id", |t| t.parse().ok())?,
        name: get(row, "name")?,
        kind: parse(row, "kind", TemplateKind::parse)?,
        shape: Shape {
            vcpus: unsigned(row, "vcpus")?,
            memory_mb: unsigned(row, "memory_mb")?,
            disk_mb: unsigned(row, "disk_mb")?,
        },
        size_bytes: size.unsigned_abs(),
        objects: objects.into_iter().map(ObjectId).collect(),
        created_at: get(row, "created_at")?,
        removed_at: get(row, "removed_at")?,
    })
}

impl Store {
    /// The template of a team that a name stands for now.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn template(&self, team: &TeamId, name: &str) -> Result<Option<Template>, StoreError> {
        let row = self.row("read a template", BY_NAME, vec![team.as_str().into(), name.into()]).await?;
        row.as_ref().map(read).transpose()
    }

    /// The name of a template, of any team, by its id.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn template_name(&self, id: &str) -> Result<Option<String>, StoreError> {
        let row =
            self.row("read a template's name", "SELECT name FROM templates WHERE id = $1", vec![id.into()]).await?;
        row.map(|row| get(&row, "name")).transpose()
    }

    /// A team's templates, the newest first; of one kind if it is named.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn templates(&self, team: &TeamId, kind: Option<TemplateKind>) -> Result<Vec<Template>, StoreError> {
        let sql = "SELECT * FROM templates WHERE team_id = $1 AND removed_at IS NULL AND ($2 = '' OR kind = $2) \
                   ORDER BY created_at DESC, id DESC";
        let kind = kind.map_or("", TemplateKind::as_str);
        let rows = self.rows("list templates", sql, vec![team.as_str().into(), kind.into()]).await?;
        rows.iter().map(read).collect()
    }

    /// Templates whose files are to go.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn templates_on_the_way_out(&self) -> Result<Vec<Template>, StoreError> {
        let sql = "SELECT * FROM templates WHERE removed_at IS NOT NULL ORDER BY removed_at, id";
        let rows = self.rows("read removed templates", sql, vec![]).await?;
        rows.iter().map(read).collect()
    }
}

impl Store {
    /// The ids of all templates on a host, those on the way out too.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn template_ids_on(&self, host: &HostId) -> Result<Vec<String>, StoreError> {
        let sql = "SELECT id FROM templates WHERE host_id = $1";
        let rows = self.rows("read a host's templates", sql, vec![host.as_str().into()]).await?;
        rows.iter().map(|row| get(row, "id")).collect()
    }
}

impl Store {
    /// The sandbox that a template was made of and its secrets, sealed for it; none when they were not kept.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn template_source(&self, id: &str) -> Result<Option<(SandboxId, String)>, StoreError> {
        let sql = "SELECT source_id, source_secrets FROM templates WHERE id = $1 AND source_secrets IS NOT NULL";
        let row = self.row("read a template's source", sql, vec![id.into()]).await?;
        row.map(|row| Ok((parse(&row, "source_id", |t| t.parse().ok())?, get(&row, "source_secrets")?))).transpose()
    }
}

impl WriteTransaction {
    /// Keeps of which sandbox a template was made, and that one's secrets, sealed for it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn keep_template_source(&self, id: &str, source: &SandboxId, sealed: &str) -> Result<(), StoreError> {
        let sql = "UPDATE templates SET source_id = $2, source_secrets = $3 WHERE id = $1";
        let values = vec![id.into(), source.as_str().into(), sealed.into()];
        self.execute("keep a template's source", sql, values).await.map(drop)
    }

    /// The template of a team that a name stands for, as this transaction sees it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn template(&self, team: &TeamId, name: &str) -> Result<Option<Template>, StoreError> {
        let row = self.row("read a template", BY_NAME, vec![team.as_str().into(), name.into()]).await?;
        row.as_ref().map(read).transpose()
    }

    /// Keeps a new template.
    ///
    /// # Errors
    /// When the database fails, or the name stands for another.
    pub async fn insert_template(&self, template: &Template) -> Result<(), StoreError> {
        let sql = "INSERT INTO templates (id, team_id, host_id, name, kind, vcpus, memory_mb, disk_mb, size_bytes, objects, \
                   created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
        let objects: Vec<&str> = template.objects.iter().map(|object| object.0.as_str()).collect();
        let values = vec![
            template.id.as_str().into(),
            template.team.as_str().into(),
            template.host.as_str().into(),
            template.name.as_str().into(),
            template.kind.as_str().into(),
            i64::from(template.shape.vcpus).into(),
            i64::from(template.shape.memory_mb).into(),
            i64::from(template.shape.disk_mb).into(),
            i64::try_from(template.size_bytes).unwrap_or(i64::MAX).into(),
            serde_json::to_string(&objects).unwrap_or_else(|_| "[]".into()).into(),
            template.created_at.into(),
        ];
        self.execute("insert a template", sql, values).await.map(drop)
    }

    /// Puts a template on the way out: its name is free at once. Answers false when it was before.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn remove_template(&self, id: &str, at: i64) -> Result<bool, StoreError> {
        let sql = "UPDATE templates SET removed_at = $2 WHERE id = $1 AND removed_at IS NULL";
        Ok(self.execute("remove a template", sql, vec![id.into(), at.into()]).await? == 1)
    }

    /// Gives a template that is on the way out its name back: its files could not be removed.
    ///
    /// # Errors
    /// When the database fails, or the name stands for another meanwhile.
    pub async fn keep_template(&self, id: &str) -> Result<bool, StoreError> {
        let sql = "UPDATE templates SET removed_at = NULL WHERE id = $1 AND removed_at IS NOT NULL";
        Ok(self.execute("keep a template", sql, vec![id.into()]).await? == 1)
    }

    /// Forgets a template that is on the way out: nothing of it is left.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget_template(&self, id: &str) -> Result<bool, StoreError> {
        let sql = "DELETE FROM templates WHERE id = $1 AND removed_at IS NOT NULL";
        Ok(self.execute("forget a template", sql, vec![id.into()]).await? == 1)
    }
}
