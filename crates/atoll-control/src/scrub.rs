//! Having everything read again that is kept.
//!
//! How it works: the host reads and compares; templates get the name that their team knows. It changes nothing, so it is no event of
//! the audit log; what is damaged is a line of Atoll's own.
//!
//! Deliberately absent: a rhythm. Who wants one calls it from a timer of the machine.

use atoll_domain::Principal;
use atoll_domain::access::Action;
use atoll_domain::scrub::{Damage, DamageKind};

use crate::{Control, ControlError};

/// What was read, and what of it is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrubReport {
    /// Files.
    pub files: u64,
    /// Their lengths together, in bytes.
    pub bytes: u64,
    /// Sorted by kind and id.
    pub damaged: Vec<NamedDamage>,
}

/// Something damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedDamage {
    /// As the host says it.
    pub damage: Damage,
    /// What a template's team calls it; none for anything else.
    pub name: Option<String>,
}

impl Control {
    /// Has everything read again that is kept, for as long as that takes.
    ///
    /// # Errors
    /// [`ControlError::Forbidden`] for everybody but platform admins; what the host says.
    pub async fn scrub(&self, principal: &Principal) -> Result<ScrubReport, ControlError> {
        Self::authorise(principal, Action::Scrub).map_err(|error| match principal {
            Principal::ApiKey { .. } => ControlError::Forbidden {
                who: "an API key: a scrub is asked for over the data directory's socket, by root or its owner",
            },
            _ => error,
        })?;
        let control = self.clone();
        let task = self.spawn(async move { control.carry_out_scrub().await });
        task.await.map_err(|_| ControlError::Stopping)?
    }

    async fn carry_out_scrub(&self) -> Result<ScrubReport, ControlError> {
        let scrubbed = self.driver().scrub().await?;
        let mut damaged = Vec::with_capacity(scrubbed.damaged.len());
        for damage in scrubbed.damaged {
            tracing::error!(kind = damage.kind.as_str(), id = %damage.id, reason = %damage.reason, "what is kept is damaged");
            let name = match damage.kind {
                DamageKind::Template => self.store().template_name(&damage.id).await?,
                DamageKind::Golden | DamageKind::Sandbox => None,
            };
            damaged.push(NamedDamage { damage, name });
        }
        Ok(ScrubReport { files: scrubbed.files, bytes: scrubbed.bytes, damaged })
    }
}
