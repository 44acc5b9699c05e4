//! How many files this process may have open.
//!
//! How it works: what a shell or a service manager gives at first is raised to what it allows: each sandbox takes some, and a start takes
//! over all of them at once.
//!
//! Deliberately absent: a number of our own. `doctor` says what is enough.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the limit as far as it goes.
pub(crate) fn raise() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) });
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files could not be raised");
    }
}
