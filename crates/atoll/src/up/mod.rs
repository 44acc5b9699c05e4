//! `atoll up`: API, control plane and host agent in one process, until it is told to stop.
//!
//! How it works: the first SIGINT or SIGTERM is an order to stop in an orderly way, the second ends the process at once. The address is
//! the one thing on standard output; everything else goes to standard error.
//!
//! Deliberately absent: putting the parts together ([`instance`]).

mod admin_file;
mod build_progress;
mod descriptors;
mod driver;
mod first_start;
pub(crate) mod instance;
mod key_file;
mod local_socket;
pub(crate) mod logs;
mod signals;

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use atoll_disk::{Cache, Progress};
use atoll_host::AcceleratorChoice;
use indicatif::MultiProgress;

pub(crate) use build_progress::{BuildProgress, Style};
pub(crate) use instance::{Instance, Parts};
pub(crate) use signals::on_signal;

use crate::args::{Global, UpArgs};
use crate::output;
use crate::settings::{Given, OnExit, Settings, reference};

/// Runs Atoll until a signal.
pub(crate) async fn up(global: &Global, args: UpArgs, mut given: Given) -> Result<()> {
    if args.print_config_reference {
        return output::print(&reference());
    }
    note_flags(&mut given, args.clone());
    let settings = Settings::from_given(&given)?;
    if args.print_config {
        return output::print(&given.print());
    }
    let bars = MultiProgress::new();
    logs::start(&settings.log, settings.log_json, &bars)?;
    descriptors::raise();
    let stop = on_signal()?;
    let progress = BuildProgress::new(style(global.quiet), bars.clone(), stop.token().clone());
    let cache = open_cache(&given, settings.cache.as_deref())?;
    let parts = Parts {
        data: settings.data.clone(),
        listen: Some(settings.listen),
        cache,
        progress: progress as Arc<dyn Progress>,
        accelerator: accelerator(&settings.accelerator),
        address_pool: settings.address_pool.clone(),
        golden_shapes: settings.golden_shapes.clone(),
        golden_budget_mb: settings.golden_budget_mb,
        disk_rate_mb: settings.disk_rate_mb,
        output_kb: settings.output_kb,
    };
    let instance = Instance::start(parts).await?;
    announce(&instance, &settings, global.quiet)?;
    stop.token().cancelled().await;
    tracing::info!("stopping; a second signal ends Atoll at once");
    instance.stop(on_exit(settings.on_exit)).await;
    tracing::info!("stopped");
    Ok(())
}

fn note_flags(given: &mut Given, args: UpArgs) {
    given.flag("listen", args.listen);
    given.flag("cache", args.cache);
    given.flag("on-exit", args.on_exit);
    given.flag("accelerator", args.accelerator);
    given.flag("address-pool", args.address_pool);
    given.flag("golden-shapes", args.golden_shapes);
    given.flag("golden-budget-mb", args.golden_budget_mb);
    given.flag("disk-rate-mb", args.disk_rate_mb);
    given.flag("output-kb", args.output_kb);
    given.flag("log", args.log);
    given.flag("log-format", args.log_format);
}

fn announce(instance: &Instance, settings: &Settings, quiet: bool) -> Result<()> {
    let url = instance.url.as_deref().unwrap_or_default();
    output::print(&format!("{url}\n"))?;
    tracing::info!(url, data = %settings.data.display(), "Atoll {} is up", env!("CARGO_PKG_VERSION"));
    if !quiet && output::stderr_is_terminal() {
        output::hint(&format!(
            "the admin's password and API key are in {}; Ctrl-C stops",
            settings.data.join(admin_file::NAME).display()
        ));
    }
    Ok(())
}

/// How progress is shown here.
pub(crate) fn style(quiet: bool) -> Style {
    match (quiet, output::stderr_is_terminal()) {
        (true, _) => Style::Silent,
        (false, true) => Style::Bars,
        (false, false) => Style::Lines,
    }
}

/// The cache that counts.
pub(crate) fn open_cache(given: &Given, explicit: Option<&Path>) -> Result<Cache> {
    let path = |name| given.variable(name).map(Path::new);
    Ok(Cache::discover(explicit, path("HOME"), path("XDG_CACHE_HOME"))?)
}

/// The choice behind a checked setting.
pub(crate) fn accelerator(text: &str) -> AcceleratorChoice {
    match text {
        "kvm" => AcceleratorChoice::Kvm,
        "tcg" => AcceleratorChoice::Tcg,
        _ => AcceleratorChoice::Auto,
    }
}

fn on_exit(setting: OnExit) -> atoll_host::OnExit {
    match setting {
        OnExit::Keep => atoll_host::OnExit::Keep,
        OnExit::Destroy => atoll_host::OnExit::Destroy,
        OnExit::Pause => atoll_host::OnExit::Pause,
    }
}
