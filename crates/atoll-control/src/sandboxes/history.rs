//! What happened to a sandbox.
//!
//! How it works: written in the transactions of the changes themselves, read here, whatever has become of the sandbox.
//!
//! Deliberately absent: who did it; that is the audit log's.

use atoll_domain::access::Action;
use atoll_domain::happening::{Happening, HappeningKind};
use atoll_domain::record::Sandbox;
use atoll_domain::{Invalid, Principal};

use crate::{Control, ControlError};

const DEFAULT_LIMIT: u32 = 50;
const MAX_LIMIT: u32 = 200;

impl Control {
    /// What happened to a sandbox, the newest first: 50 by default, 200 at most.
    ///
    /// # Errors
    /// Not found, a limit out of bounds.
    pub async fn sandbox_history(
        &self,
        principal: &Principal,
        id: &str,
        limit: Option<i64>,
    ) -> Result<Vec<Happening>, ControlError> {
        Self::authorise(principal, Action::UseSandboxes)?;
        let sandbox = self.owned(principal, id).await?;
        let limit = match limit {
            None | Some(0) => DEFAULT_LIMIT,
            Some(n) if n < 0 => return Err(Invalid::range("limit", n, 1, MAX_LIMIT.into(), "0 means 50").into()),
            Some(n) => u32::try_from(n).unwrap_or(MAX_LIMIT).min(MAX_LIMIT),
        };
        Ok(self.store().happenings(&sandbox.id, limit).await?)
    }

    /// A line of a sandbox's history, now.
    pub(crate) fn happening(&self, sandbox: &Sandbox, kind: HappeningKind, reason: Option<String>) -> Happening {
        Happening { at: self.now(), incarnation: sandbox.incarnation, kind, reason }
    }
}
