//! Whether KVM really carries a stock guest here.
//!
//! How it works: `/dev/kvm` that opens proves nothing (it may abort, or hang while the guest's own kernel code is emulated), so the
//! real kernel and guest agent are booted under it once and must say so on the console in time. The verdict is kept in the cache
//! for as long as the host's kernel, QEMU and the guest's parts stay the same; a file that others can write to is not believed. Where
//! a guest of other parts booted under the same kernel, one that is late is given a second, longer try: the machine is busy.
//!
//! Deliberately absent: judging how fast it is.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::data_dir::replace;

const FILE: &str = "kvm-verdict";
const LIMIT: Duration = Duration::from_secs(6);
/// The same for a second try.
const SECOND_LIMIT: Duration = Duration::from_secs(30);
const SAID: &str = "atoll-probe-ok";
const OUTPUT_CAP: usize = 64 * 1024;
const VERDICT_CAP: u64 = 64 * 1024;

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

/// What the cache knows: whether a guest booted under KVM, and why (not). Nothing before the first start of Atoll under this kernel.
pub fn cached_kvm_verdict(cache: &Path) -> Option<(bool, String)> {
    let verdict = kept(&cache.join(FILE))?;
    let of_this_kernel = verdict.key.split('|').next() == Some(release().as_str());
    of_this_kernel.then_some((verdict.usable, verdict.reason))
}

/// The verdict from the cache, or a fresh one.
pub(crate) fn verdict(cache: &Path, tree: &Path, kernel: &Path, initrd: &Path) -> Verdict {
    let key = format!("{}|{}|{}|{}", release(), tree.display(), kernel.display(), initrd.display());
    verdict_for(cache, key, |limit| probe(kernel, initrd, limit))
}

/// The host's kernel.
fn release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

fn verdict_for(cache: &Path, key: String, probe: impl FnMut(Duration) -> Result<(), Unusable>) -> Verdict {
    let path = cache.join(FILE);
    if let Some(verdict) = kept(&path).filter(|verdict| verdict.key == key) {
        return verdict;
    }
    let booted_before = cached_kvm_verdict(cache).is_some_and(|(usable, _)| usable);
    let (usable, reason, lasting) = match tried(booted_before, probe) {
        Ok(()) => (true, "a guest booted under it".to_owned(), true),
        Err(Unusable { reason, holds }) => (false, reason, holds == Holds::ForGood),
    };
    let verdict = Verdict { key, usable, reason };
    // What a loaded module or a quieter machine would change is asked again at the next start.
    if lasting && let Ok(text) = serde_json::to_vec(&verdict) {
        // A cache that cannot be written to costs a probe at the next start.
        let _ = replace(&path, &text, 0o644);
    }
    verdict
}

/// One try, and a second one with more time for a guest that was only late where others came up. Emulating for as long as this Atoll runs
/// costs more than waiting.
fn tried(booted_before: bool, mut probe: impl FnMut(Duration) -> Result<(), Unusable>) -> Result<(), Unusable> {
    match probe(LIMIT) {
        Err(late) if late.holds == Holds::WhileBusy && booted_before => {
            tracing::warn!(reason = %late.reason, "KVM is tried again: a guest booted under this kernel before");
            probe(SECOND_LIMIT)
        }
        found => found,
    }
}

/// What the file says, if only root or whoever runs this can have written it.
fn kept(path: &Path) -> Option<Verdict> {
    let file = std::fs::File::open(path).ok()?;
    let meta = file.metadata().ok()?;
    let own = nix::unistd::geteuid().as_raw();
    if !meta.is_file() || !(meta.uid() == 0 || meta.uid() == own) || meta.mode() & 0o022 != 0 {
        return None;
    }
    let mut text = Vec::new();
    file.take(VERDICT_CAP).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// How long it stays so that no guest boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// Until a part is another.
    ForGood,
    /// Until somebody mends the machine.
    ForNow,
    /// It was only late.
    WhileBusy,
}

/// Why no guest booted.
#[derive(Debug)]
struct Unusable {
    reason: String,
    holds: Holds,
}

fn probe(kernel: &Path, initrd: &Path, limit: Duration) -> Result<(), Unusable> {
    let passing = |reason: String| Unusable { reason, holds: Holds::ForNow };
    std::fs::File::open("/dev/kvm").map_err(|error| passing(format!("/dev/kvm cannot be opened: {error}")))?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--no-new-privs", "--bounding-set", "-all", "--inh-caps", "-all"]);
    command.arg("/usr/bin/qemu-system-x86_64");
    command.args(["-name", "atoll-kvm-probe", "-accel", "kvm", "-cpu", "host", "-m", "256", "-smp", "1"]);
    command.args(["-M", "microvm,acpi=on,pit=off,pic=off,rtc=on", "-nodefaults", "-no-user-config", "-no-reboot"]);
    command.args(["-display", "none", "-serial", "stdio", "-append"]);
    command.arg("console=ttyS0 quiet panic=-1 reboot=t pci=off atoll.probe");
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
    watch(&mut command, limit)
}

/// Whether what the command starts says in time that a guest booted.
fn watch(command: &mut Command, limit: Duration) -> Result<(), Unusable> {
    let passing = |reason: String| Unusable { reason, holds: Holds::ForNow };
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| passing(format!("QEMU does not start: {error}")))?;
    let out = child.stdout.take().map(collect);
    let err = child.stderr.take().map(collect);
    let ended = wait(&mut child, limit);
    let text = |reader: Option<std::thread::JoinHandle<String>>| reader.and_then(|r| r.join().ok()).unwrap_or_default();
    let (out, err) = (text(out), text(err));
    if out.contains(SAID) {
        return Ok(());
    }
    let last = err.lines().last().unwrap_or("nothing on the console").trim().chars().take(200).collect::<String>();
    match ended {
        Some(status) => Err(Unusable {
            reason: format!("a guest does not boot under it ({status}: {last})"),
            holds: Holds::ForGood,
        }),
        None => Err(Unusable {
            reason: format!("a guest does not boot under it within {} s", limit.as_secs()),
            holds: Holds::WhileBusy,
        }),
    }
}

fn wait(child: &mut Child, limit: Duration) -> Option<std::process::ExitStatus> {
    let started = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if started.elapsed() < limit => std::thread::sleep(Duration::from_millis(20)),
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

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::{PermissionsExt as _, chown};

    use super::*;

    const GOOD: Result<(), Unusable> = Ok(());

    fn no_guest(holds: Holds) -> Result<(), Unusable> {
        Err(Unusable { reason: "no guest".into(), holds })
    }

    fn bad(lasting: bool) -> Result<(), Unusable> {
        no_guest(if lasting { Holds::ForGood } else { Holds::ForNow })
    }

    /// Asks for a verdict; answers whether KVM can be used and whether it was tried.
    fn ask(cache: &Path, key: &str, found: Result<(), Unusable>) -> (bool, bool) {
        let (usable, limits) = ask_often(cache, key, vec![found]);
        (usable, !limits.is_empty())
    }

    /// The same of several tries; answers how long each was given.
    fn ask_often(cache: &Path, key: &str, found: Vec<Result<(), Unusable>>) -> (bool, Vec<Duration>) {
        let (mut found, mut limits) = (found.into_iter(), Vec::new());
        let verdict = verdict_for(cache, key.into(), |limit| {
            limits.push(limit);
            found.next().expect("no more tries")
        });
        (verdict.usable, limits)
    }

    #[test]
    fn who_is_late_where_others_booted_has_a_second_try_with_more_time() {
        let cache = tempfile::tempdir().unwrap();
        let here = |part: &str| format!("{}|{part}", release());
        let late = || no_guest(Holds::WhileBusy);
        let (once, twice) = (vec![LIMIT], vec![LIMIT, SECOND_LIMIT]);
        assert_eq!(
            ask_often(cache.path(), &here("a"), vec![late()]),
            (false, once.clone()),
            "nothing ever booted here"
        );
        assert_eq!(ask(cache.path(), &here("a"), GOOD), (true, true));
        assert_eq!(ask_often(cache.path(), &here("b"), vec![late(), late()]), (false, twice.clone()));
        assert_eq!(ask_often(cache.path(), &here("b"), vec![bad(false)]), (false, once.clone()), "it was not late");
        assert_eq!(ask_often(cache.path(), &here("b"), vec![late(), GOOD]), (true, twice.clone()));
        assert_eq!(ask_often(cache.path(), &here("c"), vec![late(), bad(true)]), (false, twice));
        assert_eq!(
            ask_often(cache.path(), &here("d"), vec![late()]),
            (false, once.clone()),
            "the last one did not boot"
        );
        assert_eq!(ask(cache.path(), "1.2.3-other|a", GOOD), (true, true));
        assert_eq!(ask_often(cache.path(), &here("d"), vec![late()]), (false, once), "that was another kernel");
    }

    #[test]
    fn a_verdict_is_kept_for_as_long_as_its_parts_stay_the_same() {
        let cache = tempfile::tempdir().unwrap();
        assert_eq!(cached_kvm_verdict(cache.path()), None);
        let (here, other) = (format!("{}|a", release()), "1.2.3-other|a");
        assert_eq!(ask(cache.path(), &here, GOOD), (true, true));
        assert_eq!(ask(cache.path(), &here, bad(true)), (true, false), "the second start tries nothing");
        assert!(cached_kvm_verdict(cache.path()).is_some_and(|(usable, _)| usable));
        assert_eq!(ask(cache.path(), other, bad(true)), (false, true), "another kernel is tried");
        assert_eq!(cached_kvm_verdict(cache.path()), None, "what held under another kernel says nothing");
        assert_eq!(ask(cache.path(), &here, bad(true)), (false, true));
        assert_eq!(ask(cache.path(), &here, GOOD), (false, false), "that it does not boot is kept, too");
        assert_eq!(cached_kvm_verdict(cache.path()), Some((false, "no guest".into())));
    }

    #[test]
    fn a_reason_that_passes_is_asked_again() {
        let cache = tempfile::tempdir().unwrap();
        assert_eq!(ask(cache.path(), "k", bad(false)), (false, true));
        assert!(!cache.path().join(FILE).exists());
        assert_eq!(ask(cache.path(), "k", GOOD), (true, true));
    }

    #[test]
    fn a_verdict_that_cannot_be_read_is_made_anew() {
        let cache = tempfile::tempdir().unwrap();
        let file = cache.path().join(FILE);
        for text in ["", "{", "[]", r#"{"key":"k","usable":"yes","reason":""}"#, r#"{"usable":true,"reason":"old"}"#] {
            write(&file, text).unwrap();
            assert_eq!(ask(cache.path(), "k", bad(true)), (false, true), "{text}");
            assert_eq!(ask(cache.path(), "k", GOOD), (false, false), "{text}");
        }
        let nowhere = cache.path().join("nowhere");
        assert_eq!(ask(&nowhere, "k", GOOD), (true, true), "a cache that takes nothing costs a probe, not a start");
    }

    #[test]
    fn only_what_root_or_this_user_alone_can_write_is_believed() {
        let cache = tempfile::tempdir().unwrap();
        let (file, key) = (cache.path().join(FILE), format!("{}|a", release()));
        assert_eq!(ask(cache.path(), &key, GOOD), (true, true));
        let believed = || {
            let (usable, tried) = ask(cache.path(), &key, bad(false));
            assert_eq!((usable, cached_kvm_verdict(cache.path()).is_some()), (!tried, !tried));
            !tried
        };
        assert!(believed(), "its own file is written so that it is");
        for (mode, good) in [(0o664, false), (0o646, false), (0o666, false), (0o644, true), (0o600, true)] {
            set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            assert_eq!(believed(), good, "{mode:o}");
        }
        if nix::unistd::geteuid().is_root() {
            chown(&file, Some(12345), None).unwrap();
            assert!(!believed(), "another user's");
        }
    }

    fn sh(line: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", line]);
        command
    }

    #[test]
    fn what_boots_has_said_so_and_what_ends_without_a_word_is_judged_for_good() {
        let long = Duration::from_secs(60);
        assert!(watch(&mut sh("echo kernel; echo atoll-probe-ok"), long).is_ok());
        let ended = watch(&mut sh("echo kernel; echo first >&2; echo KVM: abort >&2; exit 3"), long).unwrap_err();
        assert!(
            ended.holds == Holds::ForGood && ended.reason.contains("KVM: abort") && ended.reason.contains('3'),
            "{ended:?}"
        );
        let none = watch(&mut Command::new("/nowhere/qemu"), long).unwrap_err();
        assert!(none.holds == Holds::ForNow && none.reason.contains("does not start"), "{none:?}");
    }

    #[test]
    fn a_guest_that_hangs_is_given_up_at_the_deadline_and_ended() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let mut hangs = sh(&format!("echo $$ > {}; exec sleep 1000000", pid.display()));
        let late = watch(&mut hangs, Duration::from_secs(1)).unwrap_err();
        assert!(late.holds == Holds::WhileBusy, "a quieter machine may be quick enough");
        assert!(late.reason.contains("within 1 s"), "{late:?}");
        // It may not even have come to say its name; if it did, nobody of that name is left.
        let name = std::fs::read_to_string(&pid).unwrap_or_default();
        assert!(name.is_empty() || !Path::new("/proc").join(name.trim()).exists(), "{name}");
    }
}
