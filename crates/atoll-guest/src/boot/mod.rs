//! From the initramfs to a running machine, as PID 1.
//!
//! How it works: modules, disks, overlay, switch of the root, network, control groups; then the agent is started and
//! [`crate::reaper`] stays. Any failure ends the machine with a line on the console: a machine that is half there would
//! only look alive.
//!
//! Deliberately absent: an init system: what a sandbox wants besides the agent, its user starts.

mod drives;
mod modules;
mod mounts;
mod network;

use std::{fs, io};

use crate::{cgroup, console, reaper};

/// A step of the boot that failed.
#[derive(Debug, thiserror::Error)]
#[error("boot failed: {step}")]
pub(crate) struct BootError {
    step: String,
    #[source]
    source: io::Error,
}

impl BootError {
    pub(crate) fn new(step: impl Into<String>, source: io::Error) -> Self {
        Self { step: step.into(), source }
    }
}

/// Makes what an I/O error was about part of it.
pub(crate) trait Step<T> {
    fn step(self, step: &str) -> Result<T, BootError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: &str) -> Result<T, BootError> {
        self.map_err(|error| BootError::new(step, error.into()))
    }
}

/// Boots. Comes back only with what ended the machine.
pub(crate) fn run() -> BootError {
    match boot() {
        Ok(()) => reaper::run(),
        Err(error) => error,
    }
}

fn boot() -> Result<(), BootError> {
    mounts::kernel_file_systems()?;
    let command_line = fs::read_to_string("/proc/cmdline").step("reading /proc/cmdline")?;
    if command_line.split_whitespace().any(|word| word == "atoll.probe") {
        console::say("atoll-probe-ok");
        reaper::restart();
    }
    modules::load("/modules")?;
    let base = drives::find("base")?;
    let cow = drives::find("cow")?;
    mounts::root(&base, &cow)?;
    mounts::switch_root()?;
    mounts::machine_file_systems()?;
    network::up()?;
    mounts::name_files()?;
    cgroup::prepare(memory());
    console::say("booted");
    Ok(())
}

/// The machine's memory in bytes.
pub(crate) fn memory() -> u64 {
    nix::sys::sysinfo::sysinfo().map_or(0, |info| info.ram_total())
}
