//! What a sandbox used.
//!
//! How it works: live from its host while it runs, from the database while it is paused. A destroy asks the host for all of it first and
//! keeps the 24 hours; it waits for that only a moment, as a destroy must not hang on numbers.
//!
//! Deliberately absent: sampling.

use std::time::Duration;

use atoll_domain::access::Action;
use atoll_domain::host::HostError;
use atoll_domain::metrics::{Joined, Point, Tier};
use atoll_domain::record::Sandbox;
use atoll_domain::{Invalid, Principal, SandboxStatus};

use crate::{Control, ControlError, What};

const LAST_LIMIT: Duration = Duration::from_secs(2);

/// What a sandbox used, at one resolution.
#[derive(Debug, Clone, PartialEq)]
pub struct SandboxMetrics {
    /// Which.
    pub tier: Tier,
    /// The oldest first.
    pub points: Vec<Point>,
}

impl Control {
    /// What a running or paused sandbox used over `10m` (the default), `2h` or `24h`.
    ///
    /// # Errors
    /// An unknown range; not found, also for one that neither runs nor is paused; a host that cannot be reached.
    pub async fn sandbox_metrics(
        &self,
        principal: &Principal,
        id: &str,
        range: Option<&str>,
    ) -> Result<SandboxMetrics, ControlError> {
        Self::authorise(principal, Action::UseSandboxes)?;
        let tier = match range {
            None | Some("") => Tier::TenMinutes,
            Some(text) => {
                Tier::parse(text).ok_or_else(|| Invalid::new("range", "unknown", "use `10m`, `2h` or `24h`"))?
            }
        };
        let sandbox = self.owned(principal, id).await?;
        let none = || ControlError::NotFound { what: What::Metrics, id: sandbox.id.to_string() };
        let points = match sandbox.status {
            SandboxStatus::Running => match self.driver().metrics(sandbox.id.clone(), tier).await {
                Ok(points) => points,
                Err(HostError::NotFound) => return Err(none()),
                Err(error) => return Err(error.into()),
            },
            SandboxStatus::Paused => self.store().metric_points(&sandbox.id, tier).await?,
            SandboxStatus::Missing => {
                return Err(HostError::Unavailable("it has not been heard of for a while".into()).into());
            }
            SandboxStatus::Pending | SandboxStatus::Stopped | SandboxStatus::Error => return Err(none()),
        };
        Ok(SandboxMetrics { tier, points })
    }

    /// All that a sandbox used, if its host says it at once: a pause must not hang on numbers either.
    pub(crate) async fn used_so_far(&self, sandbox: &Sandbox) -> Vec<Joined> {
        match tokio::time::timeout(LAST_LIMIT, self.driver().flush_metrics(sandbox.id.clone())).await {
            Ok(Ok(points)) => points,
            Ok(Err(error)) => {
                tracing::warn!(sandbox.id = %sandbox.id, %error, "what a paused sandbox used is not kept");
                Vec::new()
            }
            Err(_) => Vec::new(),
        }
    }

    /// The 24 hours of a sandbox that is about to be destroyed, if its host says them at once.
    pub(crate) async fn last_metrics(&self, sandbox: &Sandbox) -> Vec<Joined> {
        if sandbox.status != SandboxStatus::Running {
            return Vec::new();
        }
        self.used_so_far(sandbox).await.into_iter().filter(|joined| joined.tier == Tier::Day).collect()
    }
}
