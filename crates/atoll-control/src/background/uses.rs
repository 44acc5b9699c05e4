//! Passes on when sandboxes were used.
//!
//! How it works: uses are noted in memory, because telling the host and a commit both cost more than a command. One loop tells the host,
//! whose timers they keep from running out, twice a second; the other writes them down in one transaction.
//!
//! Deliberately absent: exactness. A crash loses at most a few seconds of "last active".

use crate::{Control, ControlError};

/// Tells the host; answers how many sandboxes were used.
pub(crate) async fn tell(control: &Control) -> Result<usize, ControlError> {
    let ids = control.uses().take_untold(control.now());
    if ids.is_empty() {
        return Ok(0);
    }
    match control.driver().touch(ids.clone()).await {
        Ok(()) => Ok(ids.len()),
        Err(error) => {
            control.uses().put_back(ids);
            Err(error.into())
        }
    }
}

/// Writes them down; answers how many sandboxes were used.
pub(crate) async fn activate(control: &Control) -> Result<usize, ControlError> {
    control.write_uses().await
}
