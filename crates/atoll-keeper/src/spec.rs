//! What one keeper is told: `spec.json` in the sandbox's directory.
//!
//! How it works: written by the host agent before the keeper starts, mode 0600, without any secret (token and environment come
//! over the socket and stay in memory). It has a version; a keeper refuses one that it does not know.
//!
//! Deliberately absent: descriptors and pids, which differ from start to start; the one descriptor that a keeper is given, a memory
//! base that several VMMs share, is its standard input.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use atoll_domain::{Incarnation, SandboxId};
use serde::{Deserialize, Serialize};

use crate::KeeperError;
use crate::memory::Digest;

/// The version that is written. 2: memory and start of the machine became cases of their own.
pub const VERSION: u32 = 2;
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
    /// The template's image, read only.
    pub base: PathBuf,
    /// The sandbox's own disk.
    pub cow: PathBuf,
    /// The size in bytes up to which the disk may be grown later; smaller than it is means: not at all.
    pub cow_limit: u64,
    /// What guest memory is a private mapping of.
    pub memory: Memory,
    /// Where the machine begins.
    pub start: Start,
}

impl Machine {
    /// Memory in bytes.
    pub fn memory_bytes(&self) -> u64 {
        u64::from(self.memory_mb) << 20
    }
}

/// What guest memory is a private mapping of: the VMM never writes to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Memory {
    /// A file of this sandbox alone, given to its uid; made empty and sparse for a cold start if it is not there.
    File {
        /// Where.
        path: PathBuf,
    },
    /// A write-sealed memfd that several VMMs share: the keeper's standard input.
    Sealed,
}

/// Where a machine begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Start {
    /// The kernel boots.
    Cold {
        /// Uncompressed ELF image.
        kernel: PathBuf,
        /// Archive with the guest agent.
        initrd: PathBuf,
        /// Words added to the kernel's command line.
        cmdline: String,
    },
    /// It goes on from a snapshot; the virtual CPUs stand still until `resume`.
    Restore {
        /// The state of the devices.
        state: Verified,
        /// The memory that differs from the base.
        diff: Option<Verified>,
    },
}

/// A file whose content is checked before a guest sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Where.
    pub path: PathBuf,
    /// What it must hold: of a state the digest of the file, of a diff the one in its header.
    pub digest: Digest,
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
    /// Files that the keeper joins a group by, `cgroup.procs` or `tasks`.
    pub keeper_cgroups: Vec<PathBuf>,
    /// The same of the VMM.
    pub vmm_cgroups: Vec<PathBuf>,
}

impl KeeperSpec {
    /// Reads the spec of a sandbox's directory.
    ///
    /// # Errors
    /// When it is not there, malformed or of another version: whoever starts a keeper writes its spec.
    pub fn read(dir: &Path) -> Result<Self, KeeperError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let path = dir.join(FILE);
        let text = std::fs::read(&path).map_err(KeeperError::file("read", &path))?;
        let malformed = |e: serde_json::Error| KeeperError::Spec(e.to_string());
        let Versioned { version } = serde_json::from_slice(&text).map_err(malformed)?;
        if version != VERSION {
            return Err(KeeperError::SpecVersion { found: version, known: VERSION });
        }
        serde_json::from_slice(&text).map_err(malformed)
    }
}
