//! The command line as scripts use it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

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
    let (pid, done) = run_as(command.args(program).env("ATOLL_DATA", data.path().join("none")));
    let out = text(&done.stdout);
    let (id, rest) = out.split_once('\n').unwrap_or_default();
    assert_eq!((rest, done.status.code()), ("42\n", Some(5)), "{}", text(&done.stderr));
    assert!(text(&done.stderr).contains("err") && id.starts_with("sb"));
    assert!(!data.path().join("none").exists(), "no data directory is made for it");
    assert_eq!((runs_of(pid), processes_of(id)), (vec![], vec![]));
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
