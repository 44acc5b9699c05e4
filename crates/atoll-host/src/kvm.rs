//! Whether KVM really carries a stock guest here.
//!
//! How it works: `/dev/kvm` that opens proves nothing (it may abort, or hang while the guest's own kernel code is emulated), so the
//! real kernel and guest agent are booted under it once and must say so on the console in time. The verdict is kept in the cache
//! for as long as the host's kernel, QEMU and the guest's parts stay the same.
//!
//! Deliberately absent: judging how fast it is.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::data_dir::replace;

const FILE: &str = "kvm-verdict";
const LIMIT: Duration = Duration::from_secs(6);
const SAID: &str = "atoll-probe-ok";
const OUTPUT_CAP: usize = 64 * 1024;

/// What the probe found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verdict {
    /// What it holds for.
    key: String,
    /// Whether a guest booted.
    pub(crate) usable: bool,
    /// Why, or why not.
    pub(crate) reason: String,
}

/// What the cache knows: whether a guest booted under KVM, and why (not). Nothing before the first start of Atoll.
pub fn cached_kvm_verdict(cache: &Path) -> Option<(bool, String)> {
    let text = std::fs::read(cache.join(FILE)).ok()?;
    let verdict: Verdict = serde_json::from_slice(&text).ok()?;
    Some((verdict.usable, verdict.reason))
}

/// The verdict from the cache, or a fresh one.
pub(crate) fn verdict(cache: &Path, tree: &Path, kernel: &Path, initrd: &Path) -> Verdict {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let key = format!("{}|{}|{}|{}", release.trim(), tree.display(), kernel.display(), initrd.display());
    let path = cache.join(FILE);
    let cached = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Verdict>(&text).ok());
    if let Some(verdict) = cached.filter(|verdict| verdict.key == key) {
        return verdict;
    }
    let (usable, reason, lasting) = match probe(kernel, initrd) {
        Ok(()) => (true, "a guest booted under it".to_owned(), true),
        Err(Unusable { reason, lasting }) => (false, reason, lasting),
    };
    let verdict = Verdict { key, usable, reason };
    // What a loaded module or a quieter machine would change is asked again at the next start.
    if lasting && let Ok(text) = serde_json::to_vec(&verdict) {
        // A cache that cannot be written to costs a probe at the next start.
        let _ = replace(&path, &text, 0o644);
    }
    verdict
}

/// Why no guest booted, and whether that stays so.
struct Unusable {
    reason: String,
    lasting: bool,
}

fn probe(kernel: &Path, initrd: &Path) -> Result<(), Unusable> {
    let passing = |reason: String| Unusable { reason, lasting: false };
    std::fs::File::open("/dev/kvm").map_err(|error| passing(format!("/dev/kvm cannot be opened: {error}")))?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--no-new-privs", "--bounding-set", "-all", "--inh-caps", "-all"]);
    command.arg("/usr/bin/qemu-system-x86_64");
    command.args(["-name", "atoll-kvm-probe", "-accel", "kvm", "-cpu", "host", "-m", "256", "-smp", "1"]);
    command.args(["-M", "microvm,acpi=on,pit=off,pic=off,rtc=on", "-nodefaults", "-no-user-config", "-no-reboot"]);
    command.args(["-display", "none", "-serial", "stdio", "-append"]);
    command.arg("console=ttyS0 quiet panic=-1 reboot=t pci=off atoll.probe");
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| passing(format!("QEMU does not start: {error}")))?;
    let out = child.stdout.take().map(collect);
    let err = child.stderr.take().map(collect);
    let ended = wait(&mut child);
    let text = |reader: Option<std::thread::JoinHandle<String>>| reader.and_then(|r| r.join().ok()).unwrap_or_default();
    let (out, err) = (text(out), text(err));
    if out.contains(SAID) {
        return Ok(());
    }
    let last = err.lines().last().unwrap_or("nothing on the console").trim().chars().take(200).collect::<String>();
    match ended {
        Some(status) => {
            Err(Unusable { reason: format!("a guest does not boot under it ({status}: {last})"), lasting: true })
        }
        None => Err(passing(format!("a guest does not boot under it within {} s", LIMIT.as_secs()))),
    }
}

fn wait(child: &mut Child) -> Option<std::process::ExitStatus> {
    let started = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if started.elapsed() < LIMIT => std::thread::sleep(Duration::from_millis(20)),
            _ => {
                // It may have ended this very moment.
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
}

fn collect(mut from: impl std::io::Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            let room = OUTPUT_CAP.saturating_sub(kept.len()).min(n);
            kept.extend_from_slice(&buffer[..room]);
        }
        String::from_utf8_lossy(&kept).into_owned()
    })
}
