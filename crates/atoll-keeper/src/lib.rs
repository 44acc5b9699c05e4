//! The process beside each VMM, and what the host agent needs to talk to it.
//!
//! How it works: one keeper per sandbox, single-threaded, without an async runtime. It builds the VMM's jail ([`jail`]), starts
//! QEMU in it ([`qemu`]), and serves the host agent on a Unix socket in the sandbox's directory ([`serve`], [`protocol`]):
//! state, pause, kill, snapshots of devices and memory ([`memory`]), the console's last 256 KiB, sockets made in the sandbox's
//! namespace, the guest's DNS. When Atoll dies
//! the keeper and its VM go on; when the keeper dies its VMM dies with it.
//!
//! ```text
//!   atoll ──spawns──> keeper (root) ──clone(NEWPID)──> child ──execve──> qemu (uid of the sandbox)
//!                       │ opens everything, then          │ cgroup, /proc, empty netns, no capabilities,
//!                       │ drops to the same uid           │ dies with the keeper, seccomp
//!                       └ serves keeper.sock: `state` and `kill` answer whatever QEMU does
//! ```
//!
//! Deliberately absent: decisions. What a sandbox is to be stands in its [`spec`]; when to pause or kill is the host agent's.

#![expect(unsafe_code, reason = "namespaces, descriptors, seccomp and signals are system calls")]

pub mod cgroup;
#[cfg(feature = "client")]
pub mod client;
mod error;
pub mod fuzz;
pub mod jail;
pub mod memory;
pub mod protocol;
pub mod qemu;
pub mod serve;
pub mod spec;
pub mod tree;
pub mod tsc;
pub mod wire;

pub use error::KeeperError;
pub use spec::KeeperSpec;
