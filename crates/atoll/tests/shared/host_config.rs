//! What a host agent inside a test program is given.
//!
//! How it works: a file that several test programs include; the machine's cache, and the keeper and guest agent that the program carries.
//!
//! Deliberately absent: the agent; each test starts its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use atoll_disk::{Cache, Silent};
use atoll_host::{AcceleratorChoice, HostConfig};

use crate::embedded;

/// A host on a data directory, without goldens.
pub(crate) fn host_config(root: &Path) -> HostConfig {
    assert!(embedded::complete(), "this test program carries no keeper and guest: run it by `cargo xtask test`");
    let explicit = std::env::var_os("ATOLL_CACHE").map(PathBuf::from);
    HostConfig {
        data: root.to_owned(),
        cache: Cache::discover(explicit.as_deref(), None, None).unwrap(),
        keeper: embedded::KEEPER,
        guest: embedded::GUEST,
        address_pool: None,
        accelerator: AcceleratorChoice::Auto,
        golden_shapes: Vec::new(),
        golden_budget_mb: 0,
        disk_rate_mb: 0,
        output_kb: 1024,
        progress: Arc::new(Silent),
    }
}
