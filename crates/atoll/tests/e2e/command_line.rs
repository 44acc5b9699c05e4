//! The command line as scripts use it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::server::{Server, atoll};

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Directories of one-shot runs below the cache that a process made; others may run beside this test.
fn runs_of(pid: u32) -> Vec<PathBuf> {
    let cache = std::env::var_os("ATOLL_CACHE").unwrap_or_else(|| "/var/cache/atoll".into());
    let entries = std::fs::read_dir(Path::new(&cache).join("runs")).map(|e| e.flatten().collect());
    let paths = entries.unwrap_or_else(|_| Vec::new()).into_iter().map(|entry| entry.path());
    paths
        .filter(|path| std::fs::read_to_string(path.join("lock")).is_ok_and(|text| text.trim() == pid.to_string()))
        .collect()
}

/// Command lines that name a sandbox.
fn processes_of(id: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let line = |entry: std::fs::DirEntry| std::fs::read(entry.path().join("cmdline")).ok();
    processes.filter_map(line).map(|line| text(&line).replace('\0', " ")).filter(|line| line.contains(id)).collect()
}

fn names_in(directory: impl AsRef<Path>) -> Vec<String> {
    let entries =
        std::fs::read_dir(directory).map(|entries| entries.flatten().collect()).unwrap_or_else(|_| Vec::new());
    entries.into_iter().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Everybody's namespaces, nft tables, control groups and claims of slots on this machine, each with its kind before it.
fn on_machine() -> BTreeSet<String> {
    let tables = run(Command::new("nft").args(["list", "tables"]));
    assert!(tables.status.success(), "{}", text(&tables.stderr));
    let groups = Path::new("/sys/fs/cgroup");
    let controllers = names_in(groups).into_iter().map(|name| groups.join(name)).chain([groups.to_owned()]);
    // A claim may be given back between the two steps.
    let claim = |slot: String| std::fs::read_to_string(Path::new("/run/atoll/slots").join(slot)).ok();
    text(&tables.stdout)
        .lines()
        .map(str::to_owned)
        .chain(names_in("/run/netns").into_iter().map(|name| format!("netns {name}")))
        .chain(controllers.flat_map(names_in).map(|name| format!("cgroup {name}")))
        .chain(names_in("/run/atoll/slots").into_iter().filter_map(claim).map(|claim| format!("slot {claim}")))
        .collect()
}

/// The instance that claimed a slot for a sandbox.
fn instance_of(id: &str, seen: &BTreeSet<String>) -> String {
    let claims = seen.iter().filter_map(|name| serde_json::from_str::<Value>(name.strip_prefix("slot ")?).ok());
    let claim = claims.into_iter().find(|claim| claim["sandbox"] == id).expect("its claim was seen");
    claim["instance"].as_str().unwrap().to_owned()
}

/// Runs to the end; answers what was on the machine meanwhile too.
fn run_watched(command: &mut Command) -> (u32, Output, BTreeSet<String>) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut seen = BTreeSet::new();
    // It says less than a pipe holds.
    while child.try_wait().unwrap().is_none() {
        seen.append(&mut on_machine());
        std::thread::sleep(Duration::from_millis(50));
    }
    (child.id(), child.wait_with_output().unwrap(), seen)
}

/// Runs to the end; answers its pid too.
fn run_as(command: &mut Command) -> (u32, Output) {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    (child.id(), child.wait_with_output().unwrap())
}

#[test]
fn a_sandbox_lives_by_commands_alone() {
    let server = Server::start();
    let created = run(&mut server.cli(&["create", "--memory", "256", "--disk", "512", "-o", "json"]));
    assert!(created.status.success(), "{}", text(&created.stderr));
    let sandbox: Value = serde_json::from_slice(&created.stdout).unwrap();
    let id = sandbox["id"].as_str().unwrap().to_owned();
    server.note(&id);
    let listed = run(&mut server.cli(&["ls", "-o", "name"]));
    assert_eq!(text(&listed.stdout).trim(), id);
    let part = &id[..12];
    let done =
        run(&mut server.cli(&["exec", part, "--timeout", "120", "--", "bash", "-c", "echo out; echo err >&2; exit 9"]));
    assert_eq!((text(&done.stdout), text(&done.stderr), done.status.code()), ("out\n".into(), "err\n".into(), Some(9)));
    let seen = run(&mut server.cli(&["get", &id, "-o", "json"]));
    let seen: Value = serde_json::from_slice(&seen.stdout).unwrap();
    for fact in ["keeper_pid", "vmm_pid", "namespace", "interface", "directory"] {
        assert!(!seen["host"][fact].is_null(), "{fact}: {seen}");
    }
    let mut remote = atoll(&["exec", &id, "--timeout", "120", "--url", &server.url, "--", "true"]);
    assert_eq!(run(remote.env("ATOLL_API_KEY", &server.api_key)).status.code(), Some(0));
    let late = run(&mut server.cli(&["exec", &id, "--timeout", "1", "--", "sleep", "100"]));
    assert_eq!(late.status.code(), Some(124), "{}", text(&late.stderr));
    assert!(run(&mut server.cli(&["rm", &id])).status.success());
    let gone = run(&mut server.cli(&["exec", &id, "--", "true"]));
    assert_eq!(gone.status.code(), Some(125), "{}", text(&gone.stderr));
    assert!(text(&gone.stderr).contains("stopped"), "{}", text(&gone.stderr));
    let missing = run(&mut server.cli(&["get", "sbnone"]));
    assert_eq!((missing.status.code(), text(&missing.stdout)), (Some(3), String::new()));
    assert!(!text(&missing.stderr).contains('\u{1b}'), "no colour in a pipe");
}

#[test]
fn a_one_shot_run_passes_everything_on_and_leaves_nothing() {
    let data = tempfile::tempdir().unwrap();
    let program = ["bash", "-c", "hostname; python3 -c 'print(6 * 7)'; echo err >&2; exit 5"];
    let mut command = atoll(&["run", "--timeout", "120", "-q", "--"]);
    let before = on_machine();
    let (pid, done, seen) = run_watched(command.args(program).env("ATOLL_DATA", data.path().join("none")));
    let out = text(&done.stdout);
    let (id, rest) = out.split_once('\n').unwrap_or_default();
    assert_eq!((rest, done.status.code()), ("42\n", Some(5)), "{}", text(&done.stderr));
    assert!(text(&done.stderr).contains("err") && id.starts_with("sb"));
    assert!(!data.path().join("none").exists(), "no data directory is made for it");
    assert_eq!((runs_of(pid), processes_of(id)), (vec![], vec![]));
    // Others may come and go meanwhile; its own are known by its instance.
    let instance = instance_of(id, &seen);
    let own = |names: BTreeSet<String>| names.into_iter().filter(|name| name.contains(&instance)).collect::<Vec<_>>();
    let seen = own(seen);
    for kind in ["netns ", "table ", "cgroup ", "slot "] {
        assert!(seen.iter().any(|name| name.starts_with(kind)), "no {kind}among {seen:?}");
    }
    assert_eq!((own(before), own(on_machine())), (vec![], vec![]));
    let mut keep = atoll(&["run", "--keep", "--", "true"]);
    let (pid, keep) = run_as(keep.env("ATOLL_DATA", data.path().join("none")));
    assert_eq!(keep.status.code(), Some(125), "{}", text(&keep.stderr));
    assert!(text(&keep.stderr).contains("atoll up"), "{}", text(&keep.stderr));
    assert_eq!(runs_of(pid), Vec::<PathBuf>::new());
}

#[test]
fn a_run_with_a_server_is_destroyed_there_unless_kept() {
    let server = Server::start();
    let run_it = |keep: &[&str]| {
        let arguments = [&["run", "--timeout", "120", "-q"], keep, &["--", "echo", "hi"]].concat();
        run(&mut server.cli(&arguments))
    };
    let done = run_it(&[]);
    assert_eq!((text(&done.stdout), done.status.code()), ("hi\n".into(), Some(0)), "{}", text(&done.stderr));
    assert_eq!(text(&run(&mut server.cli(&["ls", "-o", "name"])).stdout), "");
    let kept = run_it(&["--keep"]);
    assert_eq!(text(&kept.stdout), "hi\n", "{}", text(&kept.stderr));
    let listed = text(&run(&mut server.cli(&["ls", "-o", "name"])).stdout);
    assert!(text(&kept.stderr).contains(listed.trim()) && !listed.trim().is_empty());
    server.note(listed.trim());
    assert!(run(&mut server.cli(&["rm", listed.trim()])).status.success());
}
