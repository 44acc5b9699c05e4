//! What must be there before the first sandbox can start.
//!
//! How it works: kernel, base image, initramfs, jail tree and the verdict on KVM are made once, by a task that whoever needs them first
//! starts and all wait for; the agent's start kicks it off, so that listening waits for nothing. A failure is told to everybody who
//! waits, and the next create tries again. A stop of the agent calls it off and awaits it.
//!
//! Deliberately absent: progress bars; the configured sink draws them.

use std::path::PathBuf;
use std::sync::Arc;

use atoll_disk::{Image, Progress, ProgressEvent, ensure_initramfs, ensure_kernel, ensure_template};
use atoll_domain::host::{HostError, Isolation};
use atoll_domain::snapshot::{Digest, Origin};
use atoll_keeper::spec::Accelerator;
use tokio_util::sync::CancellationToken;

use crate::error::{from_disk, from_keeper};
use crate::single_flight::SingleFlight;
use crate::{AcceleratorChoice, HostConfig, kvm};

/// Everything that a boot needs besides what is the sandbox's own.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
    pub(crate) image: Image,
    pub(crate) tree: PathBuf,
    pub(crate) accelerator: Accelerator,
    /// The rate of this host's time stamp counter.
    pub(crate) tsc_khz: u64,
    /// QEMU's version.
    pub(crate) vmm_version: String,
    /// Kernel, image and agent by what they hold.
    pub(crate) origin: Origin,
}

impl Ready {
    pub(crate) fn isolation(&self) -> Isolation {
        isolation(&self.accelerator)
    }
}

/// What a guest under this accelerator is kept apart by.
pub(crate) fn isolation(accelerator: &Accelerator) -> Isolation {
    match accelerator {
        Accelerator::Kvm => Isolation::Hardware,
        Accelerator::Tcg { .. } => Isolation::Emulated,
    }
}

/// Makes it once.
#[derive(Debug, Default)]
pub(crate) struct Readiness(SingleFlight<Arc<Ready>>);

impl Readiness {
    /// What is there already.
    pub(crate) fn now(&self) -> Option<Arc<Ready>> {
        self.0.now()
    }

    /// Waits for it, having it made if nobody does; `stopping` calls that off.
    pub(crate) async fn get(&self, config: &HostConfig, stopping: &CancellationToken) -> Result<Arc<Ready>, HostError> {
        let (config, stopping) = (config.clone(), stopping.clone());
        let work = move || {
            let progress = UntilStopped { told: Arc::clone(&config.progress), stopping };
            make(&config, &progress).map(Arc::new)
        };
        self.0.get(work).await
    }

    /// Waits until nothing is being made.
    pub(crate) async fn ended(&self) {
        self.0.ended().await;
    }
}

/// Tells the configured sink, and calls the work off when the agent stops.
struct UntilStopped {
    told: Arc<dyn Progress>,
    stopping: CancellationToken,
}

impl Progress for UntilStopped {
    fn event(&self, event: ProgressEvent) {
        self.told.event(event);
    }

    fn cancelled(&self) -> bool {
        self.stopping.is_cancelled() || self.told.cancelled()
    }
}

fn make(config: &HostConfig, progress: &dyn Progress) -> Result<Ready, HostError> {
    let tree = atoll_keeper::tree::ensure(config.cache.root()).map_err(from_keeper)?;
    let kernel = ensure_kernel(&config.cache, progress).map_err(from_disk)?;
    let initrd = ensure_initramfs(&config.cache, &kernel, config.guest).map_err(from_disk)?;
    let image = ensure_template(&config.cache, "base", progress).map_err(from_disk)?;
    let tsc_khz = atoll_keeper::tsc::measure_khz();
    let emulated = || Accelerator::Tcg { tsc_khz };
    let accelerator = match config.accelerator {
        AcceleratorChoice::Tcg => emulated(),
        choice => {
            let verdict = kvm::verdict(config.cache.root(), &tree, &kernel.vmlinux, &initrd);
            if verdict.usable {
                Accelerator::Kvm
            } else if choice == AcceleratorChoice::Kvm {
                return Err(HostError::MissingTool {
                    what: format!("a usable KVM ({})", verdict.reason),
                    remedy: "start Atoll with --accelerator auto to emulate guests".into(),
                });
            } else {
                tracing::info!(reason = %verdict.reason, "KVM cannot be used, guests are emulated (slower)");
                emulated()
            }
        }
    };
    let origin = Origin {
        kernel: digest(&kernel.digest)?,
        base: digest(&image.digest)?,
        agent: Digest(*blake3::hash(config.guest).as_bytes()),
        agent_version: env!("CARGO_PKG_VERSION").into(),
    };
    let vmm_version = crate::platform::vmm_version()?;
    Ok(Ready { kernel: kernel.vmlinux, initrd, image, tree, accelerator, tsc_khz, vmm_version, origin })
}

fn digest(text: &str) -> Result<Digest, HostError> {
    let malformed = |_| HostError::Failed("the cache holds a malformed digest".into());
    Digest::try_from(text.to_owned()).map_err(malformed)
}
