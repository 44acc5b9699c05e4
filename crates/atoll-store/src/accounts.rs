//! Users, teams, memberships, API keys and the host that this Atoll is.
//!
//! How it works: reads on the store, writes on a transaction; secrets come as hashes only.
//!
//! Deliberately absent: sessions and invitations.

use atoll_domain::record::{ApiKey, Membership, User};
use atoll_domain::{HostId, KeyId, TeamId};

use crate::rows::{get, parse};
use crate::{Store, StoreError, WriteTransaction};

/// An API key to be kept; the secret itself never comes here.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// The key.
    pub key: ApiKey,
    /// SHA-256 of the secret, as hex.
    pub hash: String,
}

impl Store {
    /// The team and host of the first start, if there was one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn first_team_and_host(&self) -> Result<Option<(TeamId, HostId)>, StoreError> {
        let sql = "SELECT t.id AS team, h.id AS host FROM teams t, hosts h ORDER BY t.created_at, h.created_at LIMIT 1";
        let row = self.row("read the first team", sql, vec![]).await?;
        row.map(|row| Ok((parse(&row, "team", |t| t.parse().ok())?, parse(&row, "host", |t| t.parse().ok())?)))
            .transpose()
    }

    /// The key with a hash, unless its team is deleted.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn api_key_by_hash(&self, hash: &str) -> Result<Option<ApiKey>, StoreError> {
        let sql = "SELECT k.id, k.team_id, k.name, k.key_prefix FROM team_api_keys k JOIN teams t ON t.id = k.team_id \
                   WHERE k.key_hash = $1 AND t.deleted_at IS NULL";
        let row = self.row("read an API key", sql, vec![hash.into()]).await?;
        let read = |row: sea_orm::QueryResult| {
            Ok(ApiKey {
                id: parse(&row, "id", |t| t.parse::<KeyId>().ok())?,
                team: parse(&row, "team_id", |t| t.parse().ok())?,
                name: get(&row, "name")?,
                prefix: get(&row, "key_prefix")?,
            })
        };
        row.map(read).transpose()
    }
}

impl WriteTransaction {
    /// Keeps a person; the password only as its hash.
    ///
    /// # Errors
    /// When the database fails, or the e-mail address is taken.
    pub async fn insert_user(&self, user: &User, password_hash: &str, at: i64) -> Result<(), StoreError> {
        let sql = "INSERT INTO users (id, email, name, password_hash, is_admin, created_at, updated_at) \
                   VALUES ($1, $2, $3, $4, $5, $6, $6)";
        let values = vec![
            user.id.as_str().into(),
            user.email.as_str().into(),
            user.name.as_str().into(),
            password_hash.into(),
            user.is_admin.into(),
            at.into(),
        ];
        self.execute("insert a user", sql, values).await.map(drop)
    }

    /// Keeps a team.
    ///
    /// # Errors
    /// When the database fails, or the slug is taken.
    pub async fn insert_team(&self, id: &TeamId, name: &str, slug: &str, at: i64) -> Result<(), StoreError> {
        let sql = "INSERT INTO teams (id, name, slug, is_byoc, created_at) VALUES ($1, $2, $3, $4, $5)";
        let values = vec![id.as_str().into(), name.into(), slug.into(), false.into(), at.into()];
        self.execute("insert a team", sql, values).await.map(drop)
    }

    /// Keeps a membership.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn insert_membership(&self, membership: &Membership, at: i64) -> Result<(), StoreError> {
        let sql =
            "INSERT INTO users_teams (team_id, user_id, role, is_default, created_at) VALUES ($1, $2, $3, $4, $5)";
        let (team, user) = (membership.team.as_str(), membership.user.as_str());
        let values = vec![team.into(), user.into(), membership.role.as_str().into(), true.into(), at.into()];
        self.execute("insert a membership", sql, values).await.map(drop)
    }

    /// Keeps an API key.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn insert_api_key(&self, new: &NewKey, at: i64) -> Result<(), StoreError> {
        let sql = "INSERT INTO team_api_keys (id, team_id, name, key_hash, key_prefix, created_at) \
                   VALUES ($1, $2, $3, $4, $5, $6)";
        let key = &new.key;
        let values = vec![
            key.id.as_str().into(),
            key.team.as_str().into(),
            key.name.as_str().into(),
            new.hash.as_str().into(),
            key.prefix.as_str().into(),
            at.into(),
        ];
        self.execute("insert an API key", sql, values).await.map(drop)
    }

    /// Keeps the host that this Atoll itself is.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn insert_own_host(&self, id: &HostId, at: i64) -> Result<(), StoreError> {
        let sql =
            "INSERT INTO hosts (id, kind, status, events_seen, created_at) VALUES ($1, 'regular', 'online', 0, $2)";
        self.execute("insert a host", sql, vec![id.as_str().into(), at.into()]).await.map(drop)
    }
}
