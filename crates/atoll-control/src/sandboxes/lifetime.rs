//! Changing how long a sandbox may live.
//!
//! How it works: the new limits are written down with the intent to tell the host of them; a host that cannot be reached hears of them
//! when the open call is finished later, and of one that refuses them the record takes over what it keeps to. Each change has a number, so
//! that one that was overtaken on its way to the host changes nothing there.
//!
//! Deliberately absent: the limits' rule (atoll-domain) and the timer (the host's).

use atoll_domain::access::Action;
use atoll_domain::audit::AuditAction;
use atoll_domain::happening::HappeningKind;
use atoll_domain::host::{Call, HostError};
use atoll_domain::record::Sandbox;
use atoll_domain::ttl::{Lifetime, LifetimeChange, Limits, OnExpiry};
use atoll_domain::{Invalid, Principal, SandboxStatus};
use atoll_store::{OperationKind, Step};

use crate::control::Busy;
use crate::{Control, ControlError};

/// Reads what is to happen at the end of a sandbox's time.
///
/// # Errors
/// A name that is none.
pub fn on_expiry(text: &str) -> Result<OnExpiry, Invalid> {
    OnExpiry::parse(text).ok_or_else(|| Invalid::new("on_expiry", "unknown", "use `pause` or `destroy`"))
}

impl Control {
    /// Changes the limits of a running or paused sandbox; what is absent stays. Counts as a use.
    ///
    /// # Errors
    /// Not found, neither running nor paused, a number out of bounds, a moment that has passed, or what the host says.
    pub async fn update_sandbox(
        &self,
        principal: &Principal,
        id: &str,
        change: &LifetimeChange,
    ) -> Result<Sandbox, ControlError> {
        Self::authorise(principal, Action::UseSandboxes)?;
        let sandbox = self.owned(principal, id).await?;
        if !matches!(sandbox.status, SandboxStatus::Running | SandboxStatus::Paused) {
            return Err(ControlError::NotRunning { id: id.to_owned(), status: sandbox.status });
        }
        let lifetime = sandbox.lifetime.changed(change, self.now())?;
        if lifetime == sandbox.lifetime {
            return Ok(sandbox);
        }
        let busy = self.busy(&sandbox.id);
        let (control, principal, kept) = (self.clone(), principal.clone(), sandbox.id.clone());
        let work = async move { control.carry_out_update(&principal, &sandbox, lifetime, busy).await };
        self.spawn(work).await.map_err(|_| ControlError::Stopping)??;
        self.owned_again(&kept).await
    }

    async fn carry_out_update(
        &self,
        principal: &Principal,
        sandbox: &Sandbox,
        lifetime: Lifetime,
        _busy: Busy,
    ) -> Result<(), ControlError> {
        let (call, now) = (Self::call(sandbox.incarnation)?, self.now());
        let tx = self.store().begin(Step::LifetimeIntent).await?;
        let Some(revision) = tx.set_lifetime(&sandbox.id, &lifetime, now).await? else {
            let status = SandboxStatus::Stopped;
            return Err(ControlError::NotRunning { id: sandbox.id.to_string(), status });
        };
        tx.begin_operation(&call, &sandbox.id, OperationKind::Lifetime, now).await?;
        tx.audit(&self.audit(principal, AuditAction::SandboxUpdate, sandbox)).await?;
        let what = Some(told(&lifetime));
        tx.happened(&sandbox.id, &self.happening(sandbox, HappeningKind::LifetimeChanged, what)).await?;
        tx.commit().await?;
        self.tell_lifetime(sandbox, &call, Limits { lifetime, revision }).await
    }

    /// Tells the host of a sandbox's limits; the intent is written down. What it refuses gives way to what it keeps to.
    pub(crate) async fn tell_lifetime(
        &self,
        sandbox: &Sandbox,
        call: &Call,
        limits: Limits,
    ) -> Result<(), ControlError> {
        let answer = self.driver().set_lifetime(sandbox.id.clone(), limits).await;
        match &answer {
            // The call stays open: the host hears of it when it is there again.
            Err(error) if error.is_no_answer() => return Ok(answer?),
            Err(HostError::NotFound) | Ok(()) => {}
            Err(_) => {
                if !self.put_limits_back(sandbox, limits.revision).await? {
                    return Ok(answer?);
                }
            }
        }
        let tx = self.store().begin(Step::LifetimeDone).await?;
        tx.finish_operation(&call.operation, self.now()).await?;
        tx.commit().await?;
        Ok(answer?)
    }

    /// Takes the limits over that a host keeps to, which refused others; answers false when it has still to hear of that. What was there
    /// before may have been refused, too, so the host is asked. It is told of its own limits under the refused number: an
    /// older change that is on its way to it, and that the record says nothing of any more, then changes nothing there.
    async fn put_limits_back(&self, sandbox: &Sandbox, refused: u64) -> Result<bool, ControlError> {
        let lifetime = match self.driver().inspect(sandbox.id.clone()).await {
            Ok(facts) => facts.limits.lifetime,
            Err(HostError::NotFound) => return Ok(true),
            // Told again later, it refuses again.
            Err(_) => return Ok(false),
        };
        let tx = self.store().begin(Step::LifetimeDone).await?;
        if !tx.put_lifetime_back(&sandbox.id, refused, &lifetime, self.now()).await? {
            // A newer change has an answer of its own.
            return Ok(true);
        }
        let what = Some(format!("refused by the host; back to {}", told(&lifetime)));
        tx.happened(&sandbox.id, &self.happening(sandbox, HappeningKind::LifetimeChanged, what)).await?;
        tx.commit().await?;
        let again = self.driver().set_lifetime(sandbox.id.clone(), Limits { lifetime, revision: refused }).await;
        Ok(!again.is_err_and(|error| error.is_no_answer()))
    }
}

/// Limits for people.
fn told(lifetime: &Lifetime) -> String {
    let end = lifetime.end_at.and_then(|at| jiff::Timestamp::from_microsecond(at).ok());
    let end = end.map_or_else(|| "none".to_owned(), |at| format!("{at:.3}"));
    let Lifetime { timeout_sec, on_expiry, auto_resume, max_lifetime_sec, .. } = lifetime;
    let on_expiry = on_expiry.as_str();
    format!(
        "timeout_sec {timeout_sec}, end_at {end}, on_expiry {on_expiry}, auto_resume {auto_resume}, max_lifetime_sec {max_lifetime_sec}"
    )
}
