//! What of an instance is on the machine, read from the machine itself.
//!
//! How it works: used by tests and `doctor`: after a destroy, or an orderly stop, every list here is empty.
//!
//! Deliberately absent: removing anything.

use std::path::Path;

use atoll_domain::InstanceId;
use atoll_net::{NetConfig, Pool, Slots};

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Remains {
    /// Namespaces and interfaces.
    pub network: Vec<String>,
    /// Sandboxes that have control groups.
    pub cgroups: Vec<String>,
    /// Claimed slots.
    pub slots: Vec<String>,
    /// Sandboxes' directories.
    pub directories: Vec<String>,
    /// Keepers and VMMs whose command line names a sandbox of these.
    pub processes: Vec<String>,
}

impl Remains {
    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Looks for everything of an instance with this data directory; `ids` are sandboxes that are known to have existed.
pub fn remains(instance: &InstanceId, data: &Path, ids: &[String]) -> Remains {
    let mut out = Remains::default();
    // The pool plays no part in names.
    if let Ok(pool) = Pool::parse("10.213.0.0/16") {
        let config = NetConfig { instance: instance.clone(), pool };
        out.network = atoll_net::leftovers(&config).iter().map(|leftover| format!("{leftover:?}")).collect();
    }
    out.cgroups = atoll_keeper::cgroup::list(instance).iter().map(ToString::to_string).collect();
    let claims = Slots::of_machine().of_instance(instance).unwrap_or_default();
    out.slots = claims.iter().map(|(slot, id)| format!("{} {id}", slot.0)).collect();
    let names = std::fs::read_dir(data.join("sandboxes")).map(|e| e.flatten().collect()).unwrap_or_else(|_| Vec::new());
    out.directories = names.iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let processes = std::fs::read_dir("/proc").map(|e| e.flatten().collect()).unwrap_or_else(|_| Vec::new());
    for process in processes {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let ours = line.contains("atoll-keeper") || line.contains("qemu-system");
        if ours && ids.iter().any(|id| line.contains(id.as_str())) {
            out.processes.push(line.trim().to_owned());
        }
    }
    out
}
