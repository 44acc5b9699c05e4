//! Disks of sandboxes and what they boot from: templates' base images, kernels, initramfs archives, CoW disks.
//!
//! How it works: everything that takes long to make is an artefact of a [`Cache`]: built once under a lock and a temporary
//! name, then renamed, then shared by every instance on the machine. A sandbox's own disk is a sparse copy (a reflink
//! where the file system can) of an empty formatted image. All calls block; async callers run them on a blocking thread.
//!
//! Deliberately absent: loop mounts, device-mapper, qcow2, and any reading of a guest's disk on the host.

mod apt;
mod cache;
mod command;
mod cow;
mod error;
mod image;
mod initramfs;
mod kernel;
mod own;
mod progress;

pub use apt::{Source, machine_sources, parse_deb822, parse_one_line};
pub use cache::{Cache, Manifest};
pub use cow::{
    CopyMethod, allocated_bytes, copy_disk, copy_disk_lasting, create_cow, disk_digest, disk_digest_while,
    reflink_supported,
};
pub use error::DiskError;
pub use image::{Image, TEMPLATES, ensure_template, resolve_template};
pub use initramfs::{cpio, ensure_initramfs};
pub use kernel::{Kernel, ensure_kernel, extract_vmlinux};
pub use own::{take_kernel, take_rootfs};
pub use progress::{Progress, ProgressEvent, Silent};
