//! Keepers and VMMs as the machine shows them, and killing them.
//!
//! How it works: a keeper's command line names its sandbox; the VMM is its child.
//!
//! Deliberately absent: what the host agent says of them.

use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::plan::Victim;

/// Kills keeper or VMM of a sandbox, now or as soon as there is one; false when it is over before there was.
pub(crate) async fn strike(id: &str, victim: Victim, over: impl Fn() -> bool) -> bool {
    loop {
        let last = over();
        let found = keeper(id).and_then(|keeper| if victim == Victim::Vmm { vmm(keeper) } else { Some(keeper) });
        if let Some(pid) = found {
            let killed = kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok();
            // A large one takes a moment, in which it would still be taken for alive.
            while killed && lives(u32::try_from(pid).ok()) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            return killed;
        }
        if last {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Whether there is such a process, and not only what its parent has not buried yet.
pub(crate) fn lives(pid: Option<u32>) -> bool {
    let stat = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok());
    let state = stat.as_deref().and_then(|stat| stat.rsplit_once(") ")).and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

fn keeper(id: &str) -> Option<i32> {
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let named = words.windows(2).any(|pair| pair[0] == b"--sandbox" && pair[1] == id.as_bytes());
        named.then_some(pid)
    })
}

fn vmm(keeper: i32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}
