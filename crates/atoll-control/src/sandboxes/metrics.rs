//! What a sandbox used.
//!
//! How it works: live from its host while it runs, from the database while it is paused. A pause writes all of it down, a destroy the
//! 24 hours; both ask the host for it and wait only a moment, as neither must hang on numbers. What was not said at a pause
//! is an open call, and a loop asks for it again.
//!
//! Deliberately absent: sampling.

use std::time::Duration;

use atoll_domain::access::Action;
use atoll_domain::host::HostError;
use atoll_domain::metrics::{Joined, Point, Tier};
use atoll_domain::record::Sandbox;
use atoll_domain::{Invalid, OperationId, Principal, SandboxStatus};
use atoll_store::{OperationKind, Step, WriteTransaction};

use crate::{Control, ControlError, What};

const LAST_LIMIT: Duration = Duration::from_secs(2);
/// The same where nobody waits.
const LATE_LIMIT: Duration = Duration::from_secs(30);

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

    /// All that a sandbox used; none when its host does not say it at once: a pause must not hang on numbers either.
    pub(crate) async fn used_so_far(&self, sandbox: &Sandbox) -> Option<Vec<Joined>> {
        match tokio::time::timeout(LAST_LIMIT, self.driver().flush_metrics(sandbox.id.clone())).await {
            Ok(Ok(points)) => Some(points),
            Ok(Err(error)) => {
                tracing::warn!(sandbox.id = %sandbox.id, %error, "a host does not say what a sandbox used");
                None
            }
            Err(_) => None,
        }
    }

    /// Writes down what a sandbox used until its pause. What its host did not say at once is asked for later, by [`crate::background`].
    pub(crate) async fn keep_used(
        &self,
        tx: &WriteTransaction,
        sandbox: &Sandbox,
        used: Option<&[Joined]>,
    ) -> Result<(), ControlError> {
        match used {
            Some(points) => tx.insert_metric_points(&sandbox.id, points).await.map(drop)?,
            None => {
                let call = Self::call(sandbox.incarnation)?;
                tx.begin_operation(&call, &sandbox.id, OperationKind::Metrics, self.now()).await?;
            }
        }
        Ok(())
    }

    /// Asks once more for what a paused sandbox used, and closes that call; answers false when its host cannot be asked now.
    pub(crate) async fn keep_used_late(&self, sandbox: &Sandbox, call: &OperationId) -> Result<bool, ControlError> {
        let used = match tokio::time::timeout(LATE_LIMIT, self.driver().flush_metrics(sandbox.id.clone())).await {
            Ok(Ok(points)) => points,
            Err(_) => return Ok(false),
            Ok(Err(error)) if error.is_no_answer() => return Ok(false),
            // It has nothing, or cannot read what it has: that is no better the next time.
            Ok(Err(error)) => {
                tracing::warn!(sandbox.id = %sandbox.id, %error, "what a paused sandbox used is lost");
                Vec::new()
            }
        };
        // One that was destroyed meanwhile keeps what its destroy left.
        let over = self.store().sandbox(&sandbox.id).await?.is_none_or(|sandbox| sandbox.status.is_over());
        let tx = self.store().begin(Step::OperationResumed).await?;
        if !over {
            tx.insert_metric_points(&sandbox.id, &used).await?;
        }
        tx.finish_operation(call, self.now()).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// The 24 hours of a sandbox that is about to be destroyed, if its host says them at once; of a paused one, too: its host may not have
    /// said them at the pause, and points that are there already are not written again.
    pub(crate) async fn last_metrics(&self, sandbox: &Sandbox) -> Vec<Joined> {
        if !matches!(sandbox.status, SandboxStatus::Running | SandboxStatus::Paused) {
            return Vec::new();
        }
        let used = self.used_so_far(sandbox).await.unwrap_or_default();
        used.into_iter().filter(|joined| joined.tier == Tier::Day).collect()
    }
}
