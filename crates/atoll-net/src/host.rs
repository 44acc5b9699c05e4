//! What an instance needs on the host once, besides its sandboxes' own networks.
//!
//! How it works: forwarding is switched on, the instance's table is replaced in one step, and a namespace without interfaces
//! is made for the VMMs to sit in (their TAP is a descriptor).
//!
//! Deliberately absent: switching forwarding off again (others may rely on it), and changing anybody else's tables.

use std::path::PathBuf;

use crate::apply::{bind, remove_netns, write_sysctl};
use crate::plan::netns_path;
use crate::thread::{enter_new, need_root, on_own_thread};
use crate::{NetConfig, NetError, host_rules, nft};

/// Puts the instance's table up; again and again is fine.
///
/// # Errors
/// The step that failed.
pub fn host_setup(config: &NetConfig) -> Result<(), NetError> {
    need_root()?;
    write_sysctl("/proc/sys/net/ipv4/ip_forward", "1")?;
    nft::load(&host_rules(config))
}

/// Removes the instance's table and its empty namespace.
///
/// # Errors
/// The step that failed.
pub fn host_teardown(config: &NetConfig) -> Result<(), NetError> {
    need_root()?;
    let table = config.table();
    // Declared first, so that deleting one that is not there is no error.
    nft::load(&format!("table inet {table}\ndelete table inet {table}\n"))?;
    remove_void_namespace(config)
}

/// The namespace without interfaces; made if it is not there.
///
/// # Errors
/// The step that failed.
pub fn void_namespace(config: &NetConfig) -> Result<PathBuf, NetError> {
    need_root()?;
    let name = config.void_netns();
    remove_netns(&name)?;
    on_own_thread(|| {
        enter_new()?;
        bind(&name)
    })?;
    Ok(netns_path(&name))
}

/// Removes the namespace without interfaces.
///
/// # Errors
/// The step that failed.
pub fn remove_void_namespace(config: &NetConfig) -> Result<(), NetError> {
    remove_netns(&config.void_netns())
}
