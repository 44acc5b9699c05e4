//! Who may do what.
//!
//! How it works: a [`Principal`] is who acts, an [`Action`] what it wants to do; [`allows`] is the whole matrix. The
//! facts in a principal (team, role, admin) are read from the database on each request, never from a token's hints.
//!
//! Deliberately absent: looking anything up. Ownership of an object is compared by the caller ([`Principal::team`]).

use serde::{Deserialize, Serialize};

use crate::{KeyId, TeamId, UserId};

/// A member's role in a team.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Uses the team's sandboxes.
    Member,
    /// Also changes members and keys.
    Admin,
    /// Also deletes the team.
    Owner,
}

impl Role {
    /// The wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Admin => "admin",
            Self::Owner => "owner",
        }
    }

    /// Reads a wire name.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Member, Self::Admin, Self::Owner].into_iter().find(|role| role.as_str() == text)
    }
}

/// Who acts. Written down beside a call, so that whoever finishes it after a crash knows whose it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Principal {
    /// A person, in the context of one team.
    User {
        /// The account.
        id: UserId,
        /// Shown in the audit log.
        name: String,
        /// The team in whose context it acts.
        team: TeamId,
        /// Its role there.
        role: Role,
        /// Whether it is a platform admin.
        is_admin: bool,
    },
    /// An API key of a team.
    ApiKey {
        /// The key's id.
        id: KeyId,
        /// Shown in the audit log.
        name: String,
        /// The team it belongs to.
        team: TeamId,
    },
    /// The owner of the data directory, over its socket: a platform admin in the first team.
    Local {
        /// The uid at the other end.
        uid: u32,
        /// The team of the first start.
        team: TeamId,
    },
    /// Atoll itself: background loops, events of hosts.
    System,
}

impl Principal {
    /// The team in whose name it acts; none for the system.
    pub fn team(&self) -> Option<&TeamId> {
        match self {
            Self::User { team, .. } | Self::ApiKey { team, .. } | Self::Local { team, .. } => Some(team),
            Self::System => None,
        }
    }
}

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Create, use and destroy sandboxes of the own team.
    UseSandboxes,
    /// See pids, namespaces and directories of the machine.
    SeeHostFacts,
    /// Give paths on the host (kernel, rootfs).
    UseHostPaths,
    /// Open a sandbox's agent to every program of the machine.
    OpenDebugPort,
    /// Have a host read everything again that it keeps, of every team.
    Scrub,
}

impl Action {
    /// Every action, for tests that walk the matrix.
    pub const ALL: [Self; 5] =
        [Self::UseSandboxes, Self::SeeHostFacts, Self::UseHostPaths, Self::OpenDebugPort, Self::Scrub];
}

/// The matrix.
pub fn allows(principal: &Principal, action: Action) -> bool {
    match (principal, action) {
        (Principal::System | Principal::Local { .. }, _) => true,
        (Principal::User { .. } | Principal::ApiKey { .. }, Action::UseSandboxes) => true,
        (Principal::User { is_admin, .. }, _) => *is_admin,
        (
            Principal::ApiKey { .. },
            Action::SeeHostFacts | Action::UseHostPaths | Action::OpenDebugPort | Action::Scrub,
        ) => false,
    }
}
