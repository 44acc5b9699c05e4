//! A database of its own for each test, and rows to put into it.

use std::collections::BTreeMap;

use atoll_domain::audit::AuditAction;
use atoll_domain::host::{HostSandboxState, SandboxFacts};
use atoll_domain::record::{AuditEntry, Sandbox};
use atoll_domain::ttl::Lifetime;
use atoll_domain::{HostId, Incarnation, Network, SandboxId, SandboxStatus, Shape, TeamId};
use atoll_store::{Step, Store};
use tempfile::TempDir;

pub(crate) struct Db {
    pub(crate) store: Store,
    pub(crate) dir: TempDir,
}

pub(crate) async fn open() -> Db {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_sqlite(&dir.path().join("atoll.db")).await.unwrap();
    Db { store, dir }
}

pub(crate) fn team(n: u8) -> TeamId {
    TeamId::from_random([n; 16])
}

pub(crate) fn id(n: u128) -> SandboxId {
    SandboxId::from_random(n.to_be_bytes())
}

/// A pending sandbox of team 1 on host 1.
pub(crate) fn sandbox(n: u128, created_at: i64) -> Sandbox {
    Sandbox {
        id: id(n),
        team: team(1),
        host: HostId::from_random([1; 16]),
        template: "base".into(),
        status: SandboxStatus::Pending,
        reason: None,
        incarnation: Incarnation::FIRST,
        shape: Shape { vcpus: 2, memory_mb: 512, disk_mb: 5120 },
        network: Network::Internet,
        lifetime: Lifetime { timeout_sec: 60, ..Lifetime::default() },
        lifetime_revision: 0,
        paused: None,
        metadata: BTreeMap::from([("purpose".to_owned(), "t\u{e9}st".to_owned())]),
        guest_ip: None,
        host_ip: None,
        created_at,
        started_at: None,
        last_active_at: None,
        last_updated: created_at,
    }
}

pub(crate) fn facts(of: &Sandbox) -> SandboxFacts {
    SandboxFacts {
        id: of.id.clone(),
        incarnation: of.incarnation,
        state: HostSandboxState::Running,
        directory: "/nowhere".into(),
        keeper_pid: None,
        vmm_pid: None,
        netns: None,
        interface: None,
        host_ip: Some("10.0.0.2".into()),
        guest_ip: Some("172.16.0.2".into()),
        uid: None,
        paused: None,
        limits: of.limits(),
        phases: Vec::new(),
    }
}

pub(crate) fn entry(of: &Sandbox, action: AuditAction, at: i64) -> AuditEntry {
    AuditEntry {
        team: of.team.clone(),
        actor_type: "api_key",
        actor_id: Some("key-1".into()),
        actor_name: Some("first".into()),
        action,
        resource_id: of.id.to_string(),
        metadata: BTreeMap::from([("template".to_owned(), "base".to_owned())]),
        at,
    }
}

pub(crate) async fn insert(store: &Store, sandbox: &Sandbox) {
    let tx = store.begin(Step::Uses).await.unwrap();
    tx.insert_sandbox(sandbox).await.unwrap();
    tx.commit().await.unwrap();
}
