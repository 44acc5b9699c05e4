//! What the control plane keeps about things.
//!
//! How it works: plain records; the store reads and writes them, the service layer decides with them, the API shows them. Times are
//! microseconds since 1970, UTC.
//!
//! Deliberately absent: secrets.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::objects::ObjectId;
use crate::ttl::{Lifetime, Limits};
use crate::{HostId, Incarnation, KeyId, Network, Role, SandboxId, SandboxStatus, Shape, TeamId, UserId};

/// A sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// Its id.
    pub id: SandboxId,
    /// Whose it is.
    pub team: TeamId,
    /// Where it is.
    pub host: HostId,
    /// What it started from.
    pub template: String,
    /// How it is.
    pub status: SandboxStatus,
    /// Why it is so, where there is something to say.
    pub reason: Option<String>,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Its size.
    pub shape: Shape,
    /// What it may reach.
    pub network: Network,
    /// How long it may live without being asked for.
    pub lifetime: Lifetime,
    /// How often that was changed; the host is told with it, so that it never takes an older change for a newer one.
    pub lifetime_revision: u64,
    /// What is kept of it, while it is paused.
    pub paused: Option<Paused>,
    /// Labels of its owner.
    pub metadata: BTreeMap<String, String>,
    /// The guest's own address, while it runs.
    pub guest_ip: Option<String>,
    /// Its address seen from its host, while it runs.
    pub host_ip: Option<String>,
    /// When it was asked for.
    pub created_at: i64,
    /// When it ran first.
    pub started_at: Option<i64>,
    /// When it was used last.
    pub last_active_at: Option<i64>,
    /// When this record changed last.
    pub last_updated: i64,
}

impl Sandbox {
    /// Its limits as the host is told of them.
    pub fn limits(&self) -> Limits {
        Limits { lifetime: self.lifetime, revision: self.lifetime_revision }
    }
}

/// What is kept of a paused sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// When it was paused, in microseconds since 1970.
    pub at: i64,
    /// The generation on its host; none if the disk alone was kept.
    pub generation: Option<String>,
    /// Whether its agent had frozen user code: only then may it be copied.
    pub quiesced: bool,
    /// Bytes that the pause wrote.
    pub bytes: u64,
    /// Whether a memory was kept and lost in a resume that failed: its owner never agreed to the disk alone.
    #[serde(default)]
    pub memory_lost: bool,
}

/// What kind of template it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TemplateKind {
    /// A disk.
    Base,
    /// A disk with memory.
    Snapshot,
}

impl TemplateKind {
    /// The wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Snapshot => "snapshot",
        }
    }

    /// Reads a wire name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Base, Self::Snapshot].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// A template that a team made of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// Its id; a name that is used again gets a new one.
    pub id: String,
    /// Whose it is.
    pub team: TeamId,
    /// Where its files are.
    pub host: HostId,
    /// Its name in the team.
    pub name: String,
    /// A disk, or a disk with memory.
    pub kind: TemplateKind,
    /// The size that a sandbox made from it has.
    pub shape: Shape,
    /// Allocated bytes.
    pub size_bytes: u64,
    /// The objects that it holds.
    pub objects: Vec<ObjectId>,
    /// When it was made, in microseconds since 1970.
    pub created_at: i64,
    /// Since when it is on the way out.
    pub removed_at: Option<i64>,
}

/// An API key, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its id.
    pub id: KeyId,
    /// Whose it is.
    pub team: TeamId,
    /// For people.
    pub name: String,
    /// Its first characters, by which people know it.
    pub prefix: String,
}

/// A person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its id.
    pub id: UserId,
    /// How it signs in.
    pub email: String,
    /// For people.
    pub name: String,
    /// Whether it is a platform admin.
    pub is_admin: bool,
}

/// A team and a person's role in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The team.
    pub team: TeamId,
    /// The person.
    pub user: UserId,
    /// Its role.
    pub role: Role,
}

/// A row of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// In whose log it stands.
    pub team: TeamId,
    /// `user`, `api_key`, `local` or `system`.
    pub actor_type: &'static str,
    /// The actor's id, where it has one.
    pub actor_id: Option<String>,
    /// The actor's name at that time.
    pub actor_name: Option<String>,
    /// What happened.
    pub action: crate::audit::AuditAction,
    /// To what.
    pub resource_id: String,
    /// Details for people and filters.
    pub metadata: BTreeMap<String, String>,
    /// When.
    pub at: i64,
}
