//! Looking at sandboxes.
//!
//! How it works: another team's sandbox is not found, as if it were not there. Lists are pages behind an opaque cursor that holds
//! the last row's time at full precision and its id.
//!
//! Deliberately absent: totals.

use std::collections::BTreeMap;

use atoll_domain::access::Action;
use atoll_domain::host::{HostSandboxState, SandboxFacts};
use atoll_domain::record::Sandbox;
use atoll_domain::{Invalid, Principal, SandboxId, SandboxStatus};
use atoll_store::Position;

use super::resume::Because;
use crate::{Control, ControlError, What};

const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 200;

/// A page of sandboxes.
#[derive(Debug, Clone)]
pub struct SandboxPage {
    /// The newest first.
    pub items: Vec<Sandbox>,
    /// Where the next page begins; none on the last.
    pub next_cursor: Option<String>,
}

/// Writes a position as a cursor.
pub fn encode_cursor(position: &Position) -> String {
    format!("{}-{}", position.created_at, position.id)
}

/// Reads a cursor.
///
/// # Errors
/// When it is none that a list gave.
pub fn decode_cursor(text: &str) -> Result<Position, Invalid> {
    let read = || {
        let (at, id) = text.split_once('-')?;
        Some(Position { created_at: at.parse().ok()?, id: id.parse().ok()? })
    };
    read().ok_or_else(|| Invalid::new("cursor", "malformed", "use the value of X-Next-Cursor of the page before"))
}

impl Control {
    /// A sandbox of the principal's team, whatever its status.
    pub(crate) async fn owned(&self, principal: &Principal, id: &str) -> Result<Sandbox, ControlError> {
        let missing = || ControlError::NotFound { what: What::Sandbox, id: id.chars().take(64).collect() };
        let parsed: SandboxId = id.parse().map_err(|_| missing())?;
        let sandbox = self.store().sandbox(&parsed).await?.ok_or_else(missing)?;
        if principal.team() == Some(&sandbox.team) { Ok(sandbox) } else { Err(missing()) }
    }

    /// One that was found before, as it is now.
    pub(crate) async fn owned_again(&self, id: &SandboxId) -> Result<Sandbox, ControlError> {
        let found = self.store().sandbox(id).await?;
        found.ok_or_else(|| ControlError::NotFound { what: What::Sandbox, id: id.to_string() })
    }

    /// The same, if it runs now.
    async fn running_now(&self, principal: &Principal, id: &str) -> Result<Sandbox, ControlError> {
        Self::authorise(principal, Action::UseSandboxes)?;
        let sandbox = self.owned(principal, id).await?;
        match sandbox.status {
            SandboxStatus::Running => Ok(sandbox),
            status => Err(ControlError::NotRunning { id: id.to_owned(), status }),
        }
    }

    /// The same for who is about to use it: a paused one that says so is resumed first.
    pub(crate) async fn running(&self, principal: &Principal, id: &str) -> Result<Sandbox, ControlError> {
        Self::authorise(principal, Action::UseSandboxes)?;
        let sandbox = self.owned(principal, id).await?;
        match sandbox.status {
            SandboxStatus::Running if sandbox.lifetime.auto_resume => self.resumed_if_paused(principal, sandbox).await,
            SandboxStatus::Running => Ok(sandbox),
            SandboxStatus::Paused if sandbox.lifetime.auto_resume => {
                self.resumed(principal, sandbox, Because::Used).await
            }
            status => Err(ControlError::NotRunning { id: id.to_owned(), status }),
        }
    }

    /// One sandbox.
    ///
    /// # Errors
    /// Not found, or not the principal's.
    pub async fn sandbox(&self, principal: &Principal, id: &str) -> Result<Sandbox, ControlError> {
        Self::authorise(principal, Action::UseSandboxes)?;
        let mut sandbox = self.owned(principal, id).await?;
        sandbox.last_active_at = sandbox.last_active_at.max(self.last_use(&sandbox.id));
        Ok(sandbox)
    }

    /// What belongs to it on its host; nothing for who may not see that, and for what has no VM.
    pub async fn host_facts(&self, principal: &Principal, sandbox: &Sandbox) -> Option<SandboxFacts> {
        Self::authorise(principal, Action::SeeHostFacts).ok()?;
        self.driver().inspect(sandbox.id.clone()).await.ok()
    }

    /// The team's sandboxes that are not over.
    ///
    /// # Errors
    /// A malformed cursor, a limit out of bounds.
    pub async fn list_sandboxes(
        &self,
        principal: &Principal,
        cursor: Option<&str>,
        limit: Option<i64>,
    ) -> Result<SandboxPage, ControlError> {
        Self::authorise(principal, Action::UseSandboxes)?;
        let team = principal.team().ok_or(ControlError::Forbidden { who: "the system" })?;
        let after = cursor.filter(|text| !text.is_empty()).map(decode_cursor).transpose()?;
        let limit = match limit {
            None | Some(0) => DEFAULT_LIMIT,
            Some(n) if n < 0 => {
                return Err(Invalid::range("limit", n, 1, MAX_LIMIT.into(), "0 means 50").into());
            }
            Some(n) => u32::try_from(n).unwrap_or(MAX_LIMIT).min(MAX_LIMIT),
        };
        let page = self.store().sandboxes(team, after.as_ref(), limit).await?;
        Ok(SandboxPage { items: page.items, next_cursor: page.next.as_ref().map(encode_cursor) })
    }

    /// What a running sandbox's console said last, 256 KiB at most: text out of a guest.
    ///
    /// # Errors
    /// Not found, not running, a failing host.
    pub async fn console(&self, principal: &Principal, id: &str) -> Result<Vec<u8>, ControlError> {
        let sandbox = self.running_now(principal, id).await?;
        Ok(self.driver().console(sandbox.id).await?)
    }

    /// How many sandboxes there are that are not over, by status.
    ///
    /// # Errors
    /// A failing database.
    pub async fn sandbox_counts(&self) -> Result<BTreeMap<&'static str, u64>, ControlError> {
        let mut counts = BTreeMap::new();
        for sandbox in self.store().sandboxes_on(self.own_host()).await? {
            *counts.entry(sandbox.status.as_str()).or_default() += 1;
        }
        Ok(counts)
    }

    /// Counts as a use; resumes a paused one that says so.
    ///
    /// # Errors
    /// Not found, not running.
    pub async fn ping_sandbox(&self, principal: &Principal, id: &str) -> Result<(), ControlError> {
        let sandbox = self.running(principal, id).await?;
        self.used(&sandbox.id);
        // At once, and not with the next telling: its time may be over before. What goes wrong is told again with that.
        let told = self.driver().touch(vec![sandbox.id.clone()]).await;
        if let Err(error) = told {
            tracing::debug!(sandbox.id = %sandbox.id, %error, "a host could not be told of a use");
        }
        match self.driver().inspect(sandbox.id.clone()).await {
            Ok(facts) if matches!(facts.state, HostSandboxState::Pausing | HostSandboxState::Paused) => {
                Err(ControlError::NotRunning { id: id.to_owned(), status: SandboxStatus::Paused })
            }
            _ => Ok(()),
        }
    }
}
