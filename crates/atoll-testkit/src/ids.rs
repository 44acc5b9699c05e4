//! Fresh ids and requests, so that tests share none; and a machine's capacity.
//!
//! How it works: everything is drawn anew.
//!
//! Deliberately absent: fixed ids: they would tie tests to each other.

use std::collections::BTreeMap;

use atoll_domain::host::{
    Call, CreateSandbox, GuestToken, HostCapacity, Isolation, OwnFiles, Room, SandboxSecrets, SandboxSpec,
};
use atoll_domain::{Incarnation, Network, OperationId, SandboxId, Shape};

/// So many random bytes.
pub fn random<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    getrandom::fill(&mut out).expect("the machine has random bytes");
    out
}

/// A sandbox that nobody knows yet.
pub fn sandbox() -> SandboxId {
    SandboxId::from_random(random())
}

/// A new call about a life of a sandbox.
pub fn call(incarnation: Incarnation) -> Call {
    Call { operation: OperationId::from_random(random()), incarnation }
}

/// A machine that emulates, with 4 CPUs and 8 GiB.
pub fn capacity() -> HostCapacity {
    HostCapacity {
        cpus: 4,
        memory_mb: 8192,
        max_vcpus: 8,
        isolation: Isolation::Emulated,
        templates: vec!["base".into()],
        room: Room { total_mb: 8192, available_mb: 8000, promised_mb: 0, disk_free_mb: 100_000, pause_mb: 0 },
    }
}

/// The smallest useful sandbox, without a network.
pub fn request(id: &SandboxId) -> CreateSandbox {
    let spec = SandboxSpec {
        id: id.clone(),
        template: "base".into(),
        shape: Shape { vcpus: 1, memory_mb: 256, disk_mb: 256 },
        network: Network::None,
        default_user: "root".into(),
        lifetime: atoll_domain::ttl::Lifetime::default(),
        snapshot: None,
        cold: false,
        own: OwnFiles::default(),
    };
    let envs = BTreeMap::from([("GREETING".to_owned(), "hello".to_owned())]);
    CreateSandbox { spec, secrets: SandboxSecrets { token: GuestToken::from_random(random()), envs }, inherited: None }
}
