//! The agent inside a sandbox: `/init` of its initramfs, PID 1, and the server that
//! starts programs and moves files for the host.
//!
//! How it works: one static binary in three roles. As PID 1 it makes the root file system and the network ([`boot`]),
//! then stays as a small reaper ([`reaper`]) and executes itself as `atoll-guest agent`. The agent serves the envd wire
//! on port 49983 and is the only part with a runtime. With `atoll.probe` on the kernel's command line it only says that
//! it runs: the host's way to learn whether its hypervisor works. It never polls, and it trusts nobody without the
//! sandbox's access token.
//!
//! Deliberately absent: use as a library: it is one only so that [`fuzz`] can be called.

mod agent;
mod boot;
mod cgroup;
mod console;
mod disk;
mod error;
mod files;
mod filesystem;
mod freeze;
pub mod fuzz;
mod host_keys;
mod http;
mod metadata;
mod paths;
mod process;
mod reaper;
mod repair;
mod settings;
mod users;

use std::process::ExitCode;

/// The level of the envd wire that this agent serves, as its clients gate features:
/// stdin flag (0.3.0), default user (0.4.0), closing stdin (0.5.2), octet-stream
/// uploads (0.5.7), file metadata (0.6.2). Entries in watch events (0.6.3) are not served.
pub(crate) const ENVD_VERSION: &str = "0.6.2";

/// Which of the host's own calls this agent knows, counted up with every change that a host
/// must know of: 1 has `/snapshot/prepare`, `/unfreeze`, `/sync`, `/disk/grow`, and the fields
/// `generation` and `outputBytes` of `/init`; 2 knows a start's `operation` and refuses a tag that
/// is in use. Agents live in snapshots for years, so a host asks before it calls.
pub(crate) const PROTOCOL: u32 = 2;

/// Plays the role that process id and arguments say.
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "agent") {
        return match agent::Options::parse(&arguments[1..]).and_then(agent::run) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                console::error(&error);
                ExitCode::FAILURE
            }
        };
    }
    if std::process::id() == 1 {
        reaper::end_of_machine(&boot::run());
    }
    console::say("usage: atoll-guest agent [--listen ADDRESS] [--no-init], or as PID 1 of a machine");
    ExitCode::from(2)
}
