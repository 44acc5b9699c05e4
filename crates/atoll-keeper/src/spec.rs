//! What one keeper is told: `spec.json` in the sandbox's directory.
//!
//! How it works: written by the host agent before the keeper starts, mode 0600, without any secret (token and environment come
//! over the socket and stay in memory). It has a version; a keeper refuses one that it does not know.
//!
//! Deliberately absent: descriptors and pids, which differ from start to start.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use atoll_domain::{Incarnation, SandboxId};
use serde::{Deserialize, Serialize};

use crate::KeeperError;

/// The version that is written.
pub const VERSION: u32 = 1;
/// The file's name in the sandbox's directory.
pub const FILE: &str = "spec.json";

/// All that a keeper is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeeperSpec {
    /// [`VERSION`] of the writer.
    pub version: u32,
    /// The sandbox.
    pub sandbox: SandboxId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// The virtual machine.
    pub machine: Machine,
    /// Its network.
    pub network: Network,
    /// What it is locked into.
    pub jail: Jail,
}

/// The virtual machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// What runs the guest's code.
    pub accelerator: Accelerator,
    /// Uncompressed ELF image.
    pub kernel: PathBuf,
    /// Archive with the guest agent.
    pub initrd: PathBuf,
    /// Words added to the kernel's command line.
    pub cmdline: String,
    /// The template's image, read only.
    pub base: PathBuf,
    /// The sandbox's own disk.
    pub cow: PathBuf,
    /// What guest memory is a private mapping of; made sparse if it is not there.
    pub memory: PathBuf,
}

/// What runs the guest's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Accelerator {
    /// Emulation. The guest is told the frequency of the host's TSC, or it hangs while measuring it.
    Tcg {
        /// In kHz.
        tsc_khz: u64,
    },
    /// Hardware.
    Kvm,
}

/// The sandbox's network, already made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The namespace with the TAP.
    pub netns: PathBuf,
    /// The namespace without anything, for the VMM.
    pub void_netns: PathBuf,
    /// The TAP's name.
    pub tap: String,
    /// The guest's hardware address.
    pub guest_mac: String,
    /// The TAP's address, where DNS is answered.
    pub gateway: Ipv4Addr,
    /// Resolvers of the host; empty: no DNS.
    pub resolvers: Vec<SocketAddr>,
}

/// What keeper and VMM are locked into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jail {
    /// The prepared tree with QEMU and its libraries.
    pub tree: PathBuf,
    /// The VMM's program in the tree.
    pub program: PathBuf,
    /// Its uid and gid, shared by nobody else.
    pub uid: u32,
    /// `cgroup.procs` files that the keeper joins.
    pub keeper_cgroups: Vec<PathBuf>,
    /// `cgroup.procs` files that the VMM joins.
    pub vmm_cgroups: Vec<PathBuf>,
}

impl KeeperSpec {
    /// Reads the spec of a sandbox's directory.
    ///
    /// # Errors
    /// When it is not there, malformed or too new.
    pub fn read(dir: &Path) -> Result<Self, KeeperError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let path = dir.join(FILE);
        let text = std::fs::read(&path).map_err(KeeperError::file("read", &path))?;
        let malformed = |e: serde_json::Error| KeeperError::Spec(e.to_string());
        let Versioned { version } = serde_json::from_slice(&text).map_err(malformed)?;
        if version > VERSION {
            return Err(KeeperError::SpecVersion { found: version, known: VERSION });
        }
        serde_json::from_slice(&text).map_err(malformed)
    }
}
