//! File systems: those of the kernel, the overlay that becomes the root, and what a
//! running machine has besides.
//!
//! How it works: the base image is the lower layer, read-only; the sandbox's own disk the upper. `/var/lib/docker` is
//! that disk itself, because an overlay cannot lie on an overlay.
//!
//! Deliberately absent: fstab, and checking the disk's file system.

use std::{
    fs::{self, DirBuilder},
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, PermissionsExt, symlink},
    path::Path,
};

use nix::{
    mount::{MsFlags, mount},
    unistd::{chdir, chroot},
};

use super::{BootError, Step};
use crate::console;

const NEW_ROOT: &str = "/root";
const NOTHING: Option<&str> = None;

fn folder(path: &str, mode: u32) -> Result<(), BootError> {
    match DirBuilder::new().recursive(true).mode(mode).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(BootError::new(format!("making {path}"), error)),
        _ => Ok(()),
    }
}

fn mount_kind(kind: &str, target: &str, flags: MsFlags, options: Option<&str>) -> Result<(), BootError> {
    folder(target, 0o755)?;
    mount(Some(kind), target, Some(kind), flags, options).step(&format!("mounting {kind} on {target}"))
}

/// `/proc`, `/sys` and `/dev` of the initramfs.
pub(crate) fn kernel_file_systems() -> Result<(), BootError> {
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    mount_kind("proc", "/proc", plain, None)?;
    mount_kind("sysfs", "/sys", plain, None)?;
    let devices = MsFlags::MS_NOSUID;
    match mount_kind("devtmpfs", "/dev", devices, Some("mode=0755")) {
        // Some kernels mount it by themselves.
        Err(_) if Path::new("/dev/null").exists() => Ok(()),
        result => result,
    }
}

/// Joins base image and sandbox disk.
pub(crate) fn root(base: &Path, cow: &Path) -> Result<(), BootError> {
    folder("/base", 0o755)?;
    folder("/cow", 0o755)?;
    folder(NEW_ROOT, 0o755)?;
    mount(Some(base), "/base", Some("ext4"), MsFlags::MS_RDONLY | MsFlags::MS_NOATIME, NOTHING)
        .step("mounting the base image")?;
    mount(Some(cow), "/cow", Some("ext4"), MsFlags::MS_NOATIME, Some("discard")).step("mounting the sandbox's disk")?;
    for part in ["/cow/upper", "/cow/work", "/cow/docker"] {
        folder(part, 0o755)?;
    }
    mount(
        Some("overlay"),
        NEW_ROOT,
        Some("overlay"),
        MsFlags::MS_NOATIME,
        Some("lowerdir=/base,upperdir=/cow/upper,workdir=/cow/work,redirect_dir=on"),
    )
    .step("mounting the overlay")?;
    folder("/root/var/lib/docker", 0o710)?;
    mount(Some("/cow/docker"), "/root/var/lib/docker", NOTHING, MsFlags::MS_BIND, NOTHING)
        .step("binding /var/lib/docker")
}

/// Makes the overlay the root of everything.
pub(crate) fn switch_root() -> Result<(), BootError> {
    for kept in ["proc", "sys", "dev"] {
        let target = format!("{NEW_ROOT}/{kept}");
        folder(&target, 0o755)?;
        mount(Some(format!("/{kept}").as_str()), target.as_str(), NOTHING, MsFlags::MS_MOVE, NOTHING)
            .step(&format!("moving /{kept}"))?;
    }
    chdir(NEW_ROOT).step("entering the new root")?;
    mount(Some("."), "/", NOTHING, MsFlags::MS_MOVE, NOTHING).step("moving the new root")?;
    chroot(".").step("changing the root")?;
    chdir("/").step("entering the root")
}

/// What a running machine has besides its disk.
pub(crate) fn machine_file_systems() -> Result<(), BootError> {
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount_kind("devpts", "/dev/pts", MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, Some("gid=5,mode=620,ptmxmode=666"))?;
    mount_kind("tmpfs", "/dev/shm", plain, Some("mode=1777"))?;
    mount_kind("tmpfs", "/run", plain, Some("mode=0755"))?;
    mount_kind("tmpfs", "/tmp", plain, Some("mode=1777"))?;
    folder("/run/lock", 0o1777)?;
    let sticky = fs::Permissions::from_mode(0o1777);
    fs::set_permissions("/run/lock", sticky).step("opening /run/lock")?;
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        // There already in some kernels' devtmpfs.
        let _ = symlink(target, link);
    }
    // Without control groups a machine still works; the agent is less sure of its share.
    if let Err(error) = control_groups(plain) {
        console::error(&error);
    }
    Ok(())
}

/// Every process that is started joins a group of its own, which takes the kernel 10 ms unless it was asked to favour that; one before
/// 6.0 cannot be asked.
fn control_groups(flags: MsFlags) -> Result<(), BootError> {
    let mount = |data| mount_kind("cgroup2", "/sys/fs/cgroup", flags, Some(data));
    mount("nsdelegate,memory_recursiveprot,favordynmods").or_else(|_| mount("nsdelegate,memory_recursiveprot"))
}

/// The files that name servers and hosts. `/init` writes the host's own name later.
pub(crate) fn name_files() -> Result<(), BootError> {
    // A link would lead to a file of a service that does not run here.
    if fs::symlink_metadata("/etc/resolv.conf").is_ok_and(|found| found.is_symlink()) {
        fs::remove_file("/etc/resolv.conf").step("removing the link /etc/resolv.conf")?;
    }
    fs::write("/etc/resolv.conf", "nameserver 172.16.0.1\n").step("writing /etc/resolv.conf")?;
    crate::repair::set_hostname("sandbox").step("setting the host name")
}
