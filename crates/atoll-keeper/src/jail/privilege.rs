//! Giving up privilege for good.
//!
//! How it works: bounding and ambient capabilities go first, then groups, gid, uid; no_new_privs keeps a set-uid program from
//! giving any back; no core dump ever holds a guest's memory.
//!
//! Deliberately absent: user namespaces.

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use crate::KeeperError;

/// Becomes `uid` (and the gid of the same number) without any capability.
pub(super) fn drop_to(uid: u32) -> Result<(), KeeperError> {
    for capability in 0..64_u64 {
        // SAFETY: PR_CAPBSET_DROP takes its argument by value; one that the kernel does not know ends the list.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            break;
        }
    }
    // SAFETY: takes its arguments by value; a kernel without ambient capabilities has none to clear.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(uid));
    setgroups(&[]).map_err(KeeperError::errno("leave all groups"))?;
    setresgid(group, group, group).map_err(KeeperError::errno("take the sandbox's gid"))?;
    setresuid(user, user, user).map_err(KeeperError::errno("take the sandbox's uid"))?;
    prctl::set_no_new_privs().map_err(KeeperError::errno("set no_new_privs"))?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(KeeperError::errno("forbid core dumps"))
}

/// Keeps everybody of the same uid from tracing this process.
pub(super) fn not_dumpable() -> Result<(), KeeperError> {
    prctl::set_dumpable(false).map_err(KeeperError::errno("become non-dumpable"))
}
