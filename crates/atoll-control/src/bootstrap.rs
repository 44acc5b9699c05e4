//! The first start: a platform admin, a team, an API key and the host that this Atoll is.
//!
//! How it works: made in one transaction when the database has none; the secrets are given back once and kept only as hashes.
//!
//! Deliberately absent: writing `admin.json` (the binary's).

use argon2::Argon2;
use argon2::password_hash::PasswordHasher as _;
use atoll_domain::record::{ApiKey, Membership, User};
use atoll_domain::{HostId, KeyId, Role, TeamId, UserId};
use atoll_store::{NewKey, Step, Store};

use crate::ControlError;
use crate::keys;
use crate::random::{bytes, hex};

/// What the first start made; shown once.
#[derive(Clone)]
pub struct FirstStart {
    /// How the admin signs in.
    pub email: String,
    /// Its password.
    pub password: String,
    /// Its team.
    pub team_id: TeamId,
    /// The team's first key.
    pub api_key: String,
}

impl std::fmt::Debug for FirstStart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FirstStart").field("team_id", &self.team_id).finish_non_exhaustive()
    }
}

/// The team and host of this database, made if it has none.
pub(crate) async fn ensure(store: &Store, now: i64) -> Result<(TeamId, HostId, Option<FirstStart>), ControlError> {
    if let Some((team, host)) = store.first_team_and_host().await? {
        return Ok((team, host, None));
    }
    let (user_id, team, host) =
        (UserId::from_random(bytes()?), TeamId::from_random(bytes()?), HostId::from_random(bytes()?));
    let password = hex(&bytes::<12>()?);
    let hash = Argon2::default()
        .hash_password_with_salt(password.as_bytes(), &bytes::<16>()?)
        .map_err(|error| ControlError::Internal(format!("the password cannot be hashed: {error}")))?
        .to_string();
    let user = User { id: user_id.clone(), email: "admin@localhost".into(), name: "Admin".into(), is_admin: true };
    let (secret, key_hash) = keys::make(bytes()?);
    let key = ApiKey {
        id: KeyId::from_random(bytes()?),
        team: team.clone(),
        name: "first start".into(),
        prefix: secret.chars().take(10).collect(),
    };
    let slug = hex(&bytes::<6>()?);
    let slug = format!("{}-{}", &slug[..6], &slug[6..]);
    let tx = store.begin(Step::FirstStart).await?;
    tx.insert_user(&user, &hash, now).await?;
    tx.insert_team(&team, "Admin's Team", &slug, now).await?;
    tx.insert_membership(&Membership { team: team.clone(), user: user_id, role: Role::Owner }, now).await?;
    tx.insert_api_key(&NewKey { key, hash: key_hash }, now).await?;
    tx.insert_own_host(&host, now).await?;
    tx.commit().await?;
    let first = FirstStart { email: user.email, password, team_id: team.clone(), api_key: secret };
    Ok((team, host, Some(first)))
}
