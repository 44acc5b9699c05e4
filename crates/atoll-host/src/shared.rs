//! What all actors of a host agent share.
//!
//! How it works: the configuration and the machine's parts (network, slots, images, objects), the map from sandbox to its actor's mailbox,
//! and how an event is told. [`begin`] makes it: the part of a start that blocks.
//!
//! Deliberately absent: calls; [`crate::HostAgent`] has them.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atoll_domain::host::{Call, HostError, HostEvent, HostEventKind, HostSandboxState, SandboxSpec};
use atoll_domain::objects::Holder;
use atoll_domain::{Incarnation, SandboxId, Shape};
use atoll_keeper::KeeperError;
use atoll_keeper::cgroup::{Cgroups, DiskRate, Limits};
use atoll_net::{NetConfig, NetError, NetPlan, Slots, plan};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::actor::Handle;
use crate::admission::Promised;
use crate::data_dir::DataDir;
use crate::error::{failed, join_failed};
use crate::events::Events;
use crate::journal::{Entry, Journal};
use crate::metrics::{Metrics, Target};
use crate::objects::Objects;
use crate::ready::{Readiness, Ready};
use crate::recovery::Found;
use crate::signing::Signer;
use crate::{HostConfig, StartError, Step, recovery};

/// How many creates whose sandbox is gone are remembered for replays.
const REMEMBERED: usize = 256;

/// What all actors share.
pub(crate) struct Shared {
    pub(crate) config: HostConfig,
    pub(crate) data: DataDir,
    pub(crate) net: NetConfig,
    pub(crate) slots: Slots,
    pub(crate) keeper: PathBuf,
    pub(crate) void_netns: PathBuf,
    /// What one VMM may take of the disk.
    disk_rate: Option<DiskRate>,
    pub(crate) boots: Semaphore,
    pub(crate) stopping: CancellationToken,
    /// No new sandbox from now on; changed under the map's lock.
    pub(crate) closing: AtomicBool,
    /// Pauses and copies at once: each reads and writes a whole guest's changes.
    pub(crate) pauses: Arc<Semaphore>,
    /// Flattenings at once: one, so that the space that it was found to have is not also another's.
    pub(crate) flattenings: Semaphore,
    /// Scrubs at once: one, as each reads everything.
    pub(crate) scrubs: Semaphore,
    pub(crate) signer: Arc<Signer>,
    pub(crate) objects: Arc<Objects>,
    pub(crate) readiness: Readiness,
    pub(crate) events: Events,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) sandboxes: Mutex<HashMap<SandboxId, Handle>>,
    pub(crate) failed: Mutex<VecDeque<(SandboxId, Call, HostError)>>,
    /// Sandboxes whose journals cannot be read: nobody knows what they are, and they are left alone.
    pub(crate) unreadable: HashSet<SandboxId>,
}

pub(crate) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change under these locks is one insert or remove; a panic leaves the map whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) async fn ready(&self) -> Result<Arc<Ready>, HostError> {
        self.readiness.get(&self.config, &self.stopping).await
    }

    /// The network plan of a sandbox; claims its slot.
    pub(crate) fn plan(&self, spec: &SandboxSpec) -> Result<NetPlan, NetError> {
        Step::SlotClaim.before();
        let slot = self.slots.claim(&self.net.instance, &spec.id, self.net.pool)?;
        Step::SlotClaim.after();
        Ok(plan(&self.net, slot, spec.network))
    }

    /// The same, if it has a slot.
    pub(crate) fn existing_plan(&self, spec: &SandboxSpec) -> Result<Option<NetPlan>, NetError> {
        let mine = self.slots.of_instance(&self.net.instance)?;
        let slot = mine.into_iter().find(|(_, id)| *id == spec.id).map(|(slot, _)| slot);
        Ok(slot.map(|slot| plan(&self.net, slot, spec.network)))
    }

    /// The control groups of a sandbox, made if they are not there. Blocks.
    pub(crate) fn groups(&self, spec: &SandboxSpec) -> Result<Cgroups, KeeperError> {
        let Shape { vcpus, memory_mb, .. } = spec.shape;
        let limits = Limits { vcpus, memory_mb, disk: self.disk_rate.clone() };
        atoll_keeper::cgroup::prepare(&self.net.instance, &spec.id, &limits)
    }

    /// What is sampled: every VM that runs, also while it is being paused: that may fail, or wait for others.
    pub(crate) fn targets(&self) -> Vec<Target> {
        let sandboxes = held(&self.sandboxes);
        let target = |(id, handle): (&SandboxId, &Handle)| {
            let facts = handle.facts.borrow();
            let lives = matches!(facts.state, HostSandboxState::Running | HostSandboxState::Pausing);
            let vmm_pid = facts.vmm_pid.filter(|_| lives)?;
            Some(Target { id: id.clone(), dir: (&facts.directory).into(), vmm_pid, vcpus: handle.vcpus })
        };
        sandboxes.iter().filter_map(target).collect()
    }

    /// What is promised to all sandboxes but one.
    pub(crate) fn promised(&self, but: Option<&SandboxId>) -> Promised {
        let sandboxes = held(&self.sandboxes);
        let others = sandboxes.iter().filter(|(id, _)| Some(*id) != but).map(|(_, handle)| handle);
        let mut promised = Promised::default();
        for handle in others.filter(|handle| handle.facts.borrow().state != HostSandboxState::Paused) {
            promised.memory_mb += u64::from(handle.memory_mb);
            if handle.may_pause_itself.load(Ordering::Relaxed) {
                promised.pause_mb += u64::from(handle.memory_mb);
            }
        }
        promised
    }

    pub(crate) fn forget(&self, id: &SandboxId) {
        held(&self.sandboxes).remove(id);
    }

    /// Keeps what a create whose sandbox is gone, or never was, answers to replays of its call.
    pub(crate) fn remember(&self, id: &SandboxId, call: &Call, error: HostError) {
        let mut failed = held(&self.failed);
        failed.push_back((id.clone(), call.clone(), error));
        if failed.len() > REMEMBERED {
            failed.pop_front();
        }
    }

    /// Tells something through the event stream; written down in the sandbox's journal first.
    pub(crate) async fn tell(
        self: &Arc<Self>,
        dir: &Path,
        id: &SandboxId,
        incarnation: Incarnation,
        kind: HostEventKind,
    ) -> Result<(), HostError> {
        let (shared, dir, id) = (Arc::clone(self), dir.to_owned(), id.clone());
        let told = tokio::task::spawn_blocking(move || shared.tell_blocking(&dir, &id, incarnation, kind)).await;
        told.map_err(join_failed)?.map_err(|e| failed(&e))
    }

    /// The same, where blocking is allowed.
    pub(crate) fn tell_blocking(
        &self,
        dir: &Path,
        id: &SandboxId,
        incarnation: Incarnation,
        kind: HostEventKind,
    ) -> std::io::Result<()> {
        let journal = Journal::open(dir)?;
        self.events.note(id, incarnation, kind, |event| journal.write(&Entry::Told(event.clone())))
    }

    /// Puts an event into the stream that a crash kept from it.
    pub(crate) fn restore_event(&self, event: &HostEvent) -> std::io::Result<bool> {
        self.events.restore(event)
    }
}

/// The part of a start that blocks.
pub(crate) fn begin(config: HostConfig, data: DataDir) -> Result<(Shared, Vec<Found>), StartError> {
    let instance = data.instance()?;
    let pool = data.pool(config.address_pool.as_deref())?;
    let net = NetConfig { instance, pool };
    let keeper = data.unpack_keeper(config.keeper)?;
    let events = Events::open(data.root())?;
    let signer = Arc::new(Signer::open(&data.root().join("keys"))?);
    let sandboxes = data.sandboxes();
    let lives = |holder: &Holder| match holder {
        Holder::Running { sandbox, .. } | Holder::Generation { sandbox, .. } => {
            sandboxes.join(sandbox.as_str()).exists()
        }
        // The control plane's to drop, and the goldens' own plan's.
        Holder::Template { .. } | Holder::Golden { .. } => true,
        Holder::Step { .. } => false,
    };
    let objects = Arc::new(Objects::open(data.root(), Arc::clone(&signer), lives)?);
    atoll_net::host_setup(&net)?;
    let void_netns = atoll_net::void_namespace(&net)?;
    let boots = boots_at_once();
    let disk_rate = disk_rate(data.root(), config.disk_rate_mb);
    let shared = Shared {
        config,
        data,
        net,
        slots: Slots::of_machine(),
        keeper,
        void_netns,
        disk_rate,
        boots: Semaphore::new(boots),
        stopping: CancellationToken::new(),
        closing: AtomicBool::new(false),
        pauses: Arc::new(Semaphore::new(boots)),
        flattenings: Semaphore::new(1),
        scrubs: Semaphore::new(1),
        signer,
        objects,
        readiness: Readiness::default(),
        events,
        metrics: Arc::new(Metrics::new()),
        sandboxes: Mutex::default(),
        failed: Mutex::default(),
        unreadable: HashSet::new(),
    };
    let recovery::Survey { found, unreadable } = recovery::survey(&shared)?;
    Ok((Shared { unreadable, ..shared }, found))
}

fn disk_rate(data: &Path, mb: u64) -> Option<DiskRate> {
    if mb == 0 {
        return None;
    }
    let rate = DiskRate::on(data, mb << 20);
    if rate.is_none() {
        tracing::warn!(data = %data.display(), "no disk whose rate can be limited lies below the data directory: disk-rate-mb does nothing");
    }
    rate
}

/// Logical CPUs of the machine.
pub(crate) fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX))
}

/// How many VMs may boot at once: an emulated boot is all computing.
pub(crate) fn boots_at_once() -> usize {
    usize::try_from(cpus()).unwrap_or(1)
}

/// By what name a sandbox rests on objects, in all of its lives.
pub(crate) fn rests(id: &SandboxId) -> Holder {
    Holder::Running { sandbox: id.clone(), incarnation: Incarnation::FIRST }
}
