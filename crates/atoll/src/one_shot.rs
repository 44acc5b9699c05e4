//! An instance for one `atoll run`.
//!
//! How it works: its data directory lies below the cache under `runs/`, it listens on its own socket only, and it goes with everything
//! that is its own. One that was killed leaves its directory; its lock is free then, so the next one starts on it for a
//! moment, which ends what still runs there, and removes it.
//!
//! Deliberately absent: anything that lasts, besides the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use atoll_client::{Client, Endpoint};
use atoll_disk::{Cache, Progress};
use atoll_host::OnExit;
use indicatif::MultiProgress;
use tokio_util::sync::CancellationToken;

use crate::settings::{Given, Settings};
use crate::up::{self, BuildProgress, Instance, Parts, logs};

/// What is logged without `ATOLL_LOG`: only what somebody must know.
const LOG: &str = "warn";

/// A running instance and its directory.
#[derive(Debug)]
pub(crate) struct OneShot {
    instance: Instance,
    data: PathBuf,
}

impl OneShot {
    /// Starts one; `stop` calls off the building of images.
    pub(crate) async fn start(
        given: &Given,
        settings: &Settings,
        quiet: bool,
        stop: &CancellationToken,
    ) -> Result<Self> {
        let bars = MultiProgress::new();
        let log = given.variable("ATOLL_LOG").unwrap_or(LOG);
        logs::start(log, settings.log_json, &bars)?;
        let cache = up::open_cache(given, settings.cache.as_deref())?;
        let progress = BuildProgress::new(up::style(quiet), bars, stop.clone());
        let runs = cache.root().join("runs");
        let parts = |data: &Path| Parts {
            data: data.to_owned(),
            listen: None,
            cache: Cache::clone(&cache),
            progress: Arc::clone(&progress) as Arc<dyn Progress>,
            accelerator: up::accelerator(&settings.accelerator),
            address_pool: settings.address_pool.clone(),
            // It lives for one sandbox.
            golden_shapes: Vec::new(),
            golden_budget_mb: 0,
            disk_rate_mb: settings.disk_rate_mb,
            output_kb: settings.output_kb,
        };
        for dead in dead_runs(&runs) {
            clean(parts(&dead)).await;
        }
        fs::create_dir_all(&runs).with_context(|| format!("cannot create {}", runs.display()))?;
        let data =
            tempfile::Builder::new().prefix("run-").tempdir_in(&runs).context("no directory for this run")?.keep();
        match Instance::start(parts(&data)).await {
            Ok(instance) => Ok(Self { instance, data }),
            Err(error) => {
                remove(&data);
                Err(error)
            }
        }
    }

    /// A client of it.
    pub(crate) fn client(&self) -> Result<Client> {
        Ok(Client::new(&Endpoint::Data(self.data.clone()))?)
    }

    /// Ends it and removes what is its own.
    pub(crate) async fn stop(self) {
        self.instance.stop(OnExit::Destroy).await;
        remove(&self.data);
    }
}

/// Directories of runs that are no more: their lock is free.
fn dead_runs(runs: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(runs).map(|entries| entries.flatten().collect()).unwrap_or_else(|_| Vec::new());
    let dead = |path: &PathBuf| {
        let Ok(file) = fs::File::open(path.join("lock")) else { return false };
        nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).is_ok()
    };
    entries.iter().map(fs::DirEntry::path).filter(dead).collect()
}

/// Ends what a dead run left.
async fn clean(parts: Parts) {
    let data = parts.data.clone();
    match Instance::start(parts).await {
        Ok(instance) => {
            instance.stop(OnExit::Destroy).await;
            remove(&data);
        }
        Err(error) => tracing::warn!(directory = %data.display(), "what a killed run left is still there: {error:#}"),
    }
}

fn remove(data: &Path) {
    if let Err(error) = fs::remove_dir_all(data) {
        tracing::warn!(directory = %data.display(), %error, "the directory of this run could not be removed");
    }
}
