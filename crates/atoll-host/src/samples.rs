//! What unit tests of this crate begin with.
//!
//! How it works: one of each, the smallest that is valid.
//!
//! Deliberately absent: anything random; these tests share nothing outside their directories.

use atoll_domain::host::{Call, OwnFiles, SandboxSpec};
use atoll_domain::snapshot::{Accelerator, Digest, Platform, VmmKind};
use atoll_domain::{Incarnation, Network, OperationId, SandboxId, Shape};

use crate::journal::Entry;

/// The first line of a sandbox's journal.
pub(crate) fn create(id: &SandboxId) -> Entry {
    let call = Call { operation: OperationId::from_random([1; 16]), incarnation: Incarnation::FIRST };
    let spec = SandboxSpec {
        id: id.clone(),
        template: "base".into(),
        shape: Shape { vcpus: 1, memory_mb: 128, disk_mb: 128 },
        network: Network::None,
        default_user: "root".into(),
        lifetime: atoll_domain::ttl::Lifetime::default(),
        snapshot: None,
        cold: false,
        own: OwnFiles::default(),
    };
    Entry::Create { call, spec }
}

/// The machine of a manifest.
pub(crate) fn platform() -> Platform {
    Platform {
        arch: "x86_64".into(),
        vmm: VmmKind::Qemu,
        vmm_version: "7.2.22".into(),
        vmm_series: "7.2".into(),
        accelerator: Accelerator::Tcg,
        cpu_model: "max".into(),
        tsc_khz: 1,
        devices: Digest([0; 32]),
    }
}
