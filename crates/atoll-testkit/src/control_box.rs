//! A control plane on a database of its own and a simulated host.
//!
//! How it works: the store is SQLite in a temporary directory, the service layer is the real one; its loops run only when a test starts
//! them ([`ControlBox::start_loops`]) or activates one by hand.
//!
//! Deliberately absent: HTTP.

use std::path::PathBuf;
use std::sync::Arc;

use atoll_control::sandboxes::CreateInput;
use atoll_control::{Control, FirstStart, RequestKey, SealingKey};
use atoll_domain::record::{ApiKey, Sandbox};
use atoll_domain::{KeyId, Principal, TeamId};
use atoll_store::{Step, Store, StoredAudit};
use tempfile::TempDir;

use crate::{ManualClock, SimHost, ids};

/// The fixture.
#[derive(Debug)]
pub struct ControlBox {
    /// The service layer.
    pub control: Control,
    /// Its only host.
    pub host: SimHost,
    /// Its clock.
    pub clock: ManualClock,
    /// What the first start made.
    pub first: FirstStart,
    /// The first team's API key, as a principal.
    pub principal: Principal,
    dir: TempDir,
}

/// The sealing key of every fixture.
fn key() -> SealingKey {
    SealingKey::new([42; 32])
}

impl ControlBox {
    /// Starts on an empty database.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (host, clock) = (SimHost::new(), ManualClock::at(1_700_000_000_123_456));
        let store = Store::open_sqlite(&dir.path().join("atoll.db")).await.expect("a database");
        let driver = Arc::new(host.clone());
        let (control, first) = Control::start(store, driver, Arc::new(clock.clone()), request_key(), key())
            .await
            .expect("a control plane");
        let first = first.expect("an empty database has a first start");
        let principal = control.authenticate_key(&first.api_key).await.expect("the first key");
        Self { control, host, clock, first, principal, dir }
    }

    /// Starts again on the same database and host, as after a crash: nothing of the old one is waited for.
    pub async fn restart(&mut self) {
        self.restart_with(key()).await;
    }

    /// The same with another sealing key.
    pub async fn restart_with(&mut self, key: SealingKey) {
        let store = Store::open_sqlite(&self.database()).await.expect("the same database");
        let driver = Arc::new(self.host.clone());
        let again = Control::start(store, driver, Arc::new(self.clock.clone()), request_key(), key)
            .await
            .expect("a control plane");
        self.control = again.0;
    }

    /// Starts the background loops.
    pub fn start_loops(&self) {
        self.control.start_loops();
    }

    /// Where the database is.
    pub fn database(&self) -> PathBuf {
        self.dir.path().join("atoll.db")
    }

    /// A sandbox of the first team that runs.
    pub async fn sandbox(&self) -> Sandbox {
        let made = self.control.create_sandbox(&self.principal, CreateInput::default()).await;
        made.expect("a sandbox")
    }

    /// Makes another team and answers its key, as a principal.
    pub async fn other_team(&self) -> Principal {
        let team = TeamId::from_random(ids::random());
        let key = ApiKey {
            id: KeyId::from_random(ids::random()),
            team: team.clone(),
            name: "other".into(),
            prefix: "atoll_other".into(),
        };
        let tx = self.control.store().begin(Step::Uses).await.expect("a transaction");
        let slug = team.as_str().to_owned();
        tx.insert_team(&team, "Other", &slug, 1).await.expect("a team");
        tx.commit().await.expect("a commit");
        Principal::ApiKey { id: key.id, name: key.name, team }
    }

    /// The audit rows about a sandbox, the oldest first, as `action`.
    pub async fn audit_of(&self, id: &str) -> Vec<String> {
        let rows = self.control.store().audit(&self.first.team_id, 10_000).await.expect("the audit log");
        let about = |row: &StoredAudit| row.resource_id.as_deref() == Some(id);
        rows.iter().rev().filter(|row| about(row)).map(|row| row.action.clone()).collect()
    }
}

/// The same at every start of a fixture, as a key file is.
fn request_key() -> RequestKey {
    RequestKey::new([7; 32])
}
