//! The file system that keeper and VMM are left with.
//!
//! How it works: in a mount namespace of its own the shared tree is bound onto itself, kernel and initramfs are bound into it,
//! a tiny `/dev` holds `/dev/kvm` where hardware runs the guest; then the tree becomes the root, everything else is
//! detached, and all of it is read-only.
//!
//! Deliberately absent: anything of the sandbox's directory.

use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{Gid, Uid, chdir, chown, pivot_root};

use crate::spec::{Accelerator, Start};
use crate::tree::{INITRD, KERNEL};
use crate::{KeeperError, KeeperSpec};

const NONE: Option<&str> = None;

/// Makes the tree this process's root.
pub(super) fn enter(spec: &KeeperSpec) -> Result<(), KeeperError> {
    let own = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS;
    unshare(own).map_err(KeeperError::errno("make the jail's namespaces"))?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .map_err(KeeperError::errno("make mounts private"))?;
    let tree = &spec.jail.tree;
    bind(tree, tree)?;
    if let Start::Cold { kernel, initrd, .. } = &spec.machine.start {
        bind_read_only(kernel, &inside(tree, KERNEL))?;
        bind_read_only(initrd, &inside(tree, INITRD))?;
    }
    if spec.machine.accelerator == Accelerator::Kvm {
        devices(&inside(tree, "/dev"), spec.jail.uid)?;
    }
    chdir(tree).map_err(KeeperError::errno("enter the jail's root"))?;
    pivot_root(".", ".").map_err(KeeperError::errno("change the root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(KeeperError::errno("detach the host's root"))?;
    chdir("/").map_err(KeeperError::errno("enter the new root"))?;
    read_only(Path::new("/"))
}

fn inside(tree: &Path, path: &str) -> std::path::PathBuf {
    tree.join(path.trim_start_matches('/'))
}

fn bind(source: &Path, target: &Path) -> Result<(), KeeperError> {
    mount(Some(source), target, NONE, MsFlags::MS_BIND, NONE)
        .map_err(KeeperError::errno(format!("bind {}", source.display())))
}

fn bind_read_only(source: &Path, target: &Path) -> Result<(), KeeperError> {
    bind(source, target)?;
    read_only(target)
}

fn read_only(target: &Path) -> Result<(), KeeperError> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(NONE, target, NONE, flags, NONE).map_err(KeeperError::errno(format!("make {} read-only", target.display())))
}

/// A node of its own for KVM, on a mount where devices work.
fn devices(dev: &Path, uid: u32) -> Result<(), KeeperError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), dev, Some("tmpfs"), flags, Some("size=64k,mode=755"))
        .map_err(KeeperError::errno("mount the jail's /dev"))?;
    let kvm = dev.join("kvm");
    mknod(&kvm, SFlag::S_IFCHR, Mode::S_IRUSR | Mode::S_IWUSR, makedev(10, 232))
        .map_err(KeeperError::errno("make the jail's /dev/kvm"))?;
    chown(&kvm, Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid)))
        .map_err(KeeperError::errno("give /dev/kvm away"))?;
    let flags = flags | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(NONE, dev, NONE, flags, NONE).map_err(KeeperError::errno("make the jail's /dev read-only"))
}
