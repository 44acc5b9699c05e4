//! What an instance has on this machine, read from the machine itself.
//!
//! How it works: namespaces and interfaces are found by the instance's id in their names, so that what no journal knows is
//! found too and nobody else's is touched.
//!
//! Deliberately absent: claims of slots ([`crate::Slots::of_instance`]) and tables (removed by `host_teardown`).

use std::fs;

use crate::apply::{remove_interface, remove_netns};
use crate::{NetConfig, NetError};

/// Something that bears the instance's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leftover {
    /// A named network namespace.
    Netns(String),
    /// An interface in the host's namespace.
    Interface(String),
}

/// All namespaces (but for the shared empty one) and interfaces of an instance.
pub fn leftovers(config: &NetConfig) -> Vec<Leftover> {
    let names = |dir: &str| -> Vec<String> {
        let entries = fs::read_dir(dir).map(|entries| entries.flatten().collect()).unwrap_or_else(|_| Vec::new());
        entries.into_iter().filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    let (netns, interface, void) = (config.netns_prefix(), config.interface_prefix(), config.void_netns());
    let spaces = names("/run/netns").into_iter().filter(|n| n.starts_with(&netns) && *n != void);
    let interfaces = names("/sys/class/net").into_iter().filter(|n| n.starts_with(&interface));
    let mut out: Vec<_> = spaces.map(Leftover::Netns).chain(interfaces.map(Leftover::Interface)).collect();
    out.sort();
    out
}

/// Removes one.
///
/// # Errors
/// The step that failed.
pub fn remove_leftover(leftover: &Leftover) -> Result<(), NetError> {
    match leftover {
        Leftover::Netns(name) => remove_netns(name),
        Leftover::Interface(name) => remove_interface(name),
    }
}
