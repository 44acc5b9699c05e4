//! Writes down when sandboxes were used.
//!
//! How it works: uses are noted in memory, because a commit costs more than a command; this loop writes them in one transaction.
//!
//! Deliberately absent: exactness. A crash loses at most a few seconds of "last active".

use crate::{Control, ControlError};

/// Answers how many sandboxes were used.
pub(crate) async fn activate(control: &Control) -> Result<usize, ControlError> {
    control.write_uses().await
}
