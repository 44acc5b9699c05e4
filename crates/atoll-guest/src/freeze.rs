//! Letting user code stand still, by its control group.
//!
//! How it works: `cgroup.freeze` of the group that holds everything the agent started. The
//! kernel freezes one task after another and says in `cgroup.events` when it has them all; what
//! joins the group later freezes as it joins. Killing works on frozen tasks too.
//!
//! Deliberately absent: freezing what root inside the guest moved into a group of its own.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use crate::{console, error::AgentError};

/// How often the kernel is asked whether all stand still. It takes a few milliseconds in all.
const ASK: Duration = Duration::from_millis(1);

/// Freezes and thaws user code.
pub(crate) struct Freezer {
    /// The group; `None` on a machine without.
    group: Option<PathBuf>,
    frozen: AtomicBool,
}

impl Freezer {
    pub(crate) fn new(group: Option<PathBuf>) -> Self {
        let group = group.filter(|group| group.join("cgroup.freeze").exists());
        Self { group, frozen: AtomicBool::new(false) }
    }

    /// Whether user code stands still, or is about to.
    pub(crate) fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Relaxed)
    }

    /// Freezes, and waits until everything stands still; `false` on a machine that cannot.
    /// The caller bounds the time, and thaws when it gives up.
    pub(crate) async fn freeze(&self) -> Result<bool, AgentError> {
        let Some(group) = &self.group else {
            return Ok(false);
        };
        let failed = |source| AgentError::io("freezing user code", source);
        self.frozen.store(true, Ordering::Relaxed);
        fs::write(group.join("cgroup.freeze"), "1").map_err(failed)?;
        loop {
            let events = fs::read_to_string(group.join("cgroup.events")).map_err(failed)?;
            if events.lines().any(|line| line == "frozen 1") {
                return Ok(true);
            }
            tokio::time::sleep(ASK).await;
        }
    }

    /// Lets user code go on. No harm when it is not frozen.
    pub(crate) fn thaw(&self) {
        if let Some(group) = &self.group
            && let Err(error) = fs::write(group.join("cgroup.freeze"), "0")
        {
            console::say(&format!("thawing user code: {error}"));
        }
        self.frozen.store(false, Ordering::Relaxed);
    }
}
