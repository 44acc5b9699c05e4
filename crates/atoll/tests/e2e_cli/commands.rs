//! Create, list, look, run, destroy; and what is left afterwards.

use std::io::Write as _;
use std::process::{Command, Stdio};

use atoll_host::remains;

use crate::server::{Ended, Server, binary};

#[test]
fn the_life_of_a_sandbox_on_the_command_line_and_nothing_left_after_an_orderly_stop() {
    let mut server = Server::start();
    let id = server.create();
    assert_eq!(server.ok(&["ls", "-o", "name"]), id);
    let shown: serde_json::Value = serde_json::from_str(&server.ok(&["get", &id[..12], "-o", "json"])).unwrap();
    let host = &shown["host"];
    assert!(host["vmm_pid"].as_u64().is_some() && host["keeper_pid"].as_u64().is_some(), "{shown}");
    assert!(host["directory"].as_str().is_some_and(|dir| dir.ends_with(&id)), "{shown}");
    assert!(host["namespace"].is_string() && host["interface"].is_string(), "{shown}");

    let ended =
        server.run(&["exec", &id, "-e", "A=b", "-w", "/tmp", "--", "sh", "-c", "echo $A $PWD; echo no >&2; exit 7"]);
    assert_eq!((ended.code, ended.stdout.as_str(), ended.stderr.as_str()), (Some(7), "b /tmp\n", "no\n"));
    let missing = server.run(&["exec", &id, "--", "no-such-program"]);
    assert_eq!(missing.code, Some(127), "{missing:?}");
    assert!(missing.stderr.contains("no-such-program"), "{missing:?}");
    let late = server.run(&["exec", &id, "--timeout", "1", "--", "sleep", "60"]);
    assert_eq!(late.code, Some(124), "{late:?}");
    assert_eq!(server.run(&["exec", &id, "-w", "/nowhere", "--", "true"]).code, Some(125));

    let said = server.ok(&["logs", &id]);
    assert!(said.contains("atoll"), "the console holds the agent's start: {said:?}");

    let input: String = (0..60_000).map(|n| format!("{n}\n")).collect();
    let mut child = server.atoll(&["exec", "-i", &id, "--", "sort", "-n"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let sent = input.clone();
    let sender = std::thread::spawn(move || stdin.write_all(sent.as_bytes()).unwrap());
    let sorted = child.wait_with_output().unwrap();
    sender.join().unwrap();
    assert!(sorted.stdout == input.as_bytes(), "{} bytes came back", sorted.stdout.len());

    let run = server.run(&["run", "-q", "--memory", "256", "--", "sh", "-c", "echo once; exit 3"]);
    assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (Some(3), "once\n", ""));
    assert_eq!(server.ok(&["ls", "-o", "name"]), id, "what `run` made is gone");

    let gone = server.create();
    assert_eq!(server.ok(&["rm", &gone]), gone);
    assert_eq!(server.ok(&["rm", &gone]), gone, "a second time is no error");
    assert_eq!(server.run(&["rm", "sbnosuch"]).code, Some(3));
    let stopped = server.run(&["exec", &gone, "--", "true"]);
    assert_eq!(stopped.code, Some(125), "{stopped:?}");
    assert!(stopped.stderr.contains("stopped"), "{stopped:?}");

    let text = std::fs::read(server.data().join("instance.json")).unwrap();
    let instance: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let instance = serde_json::from_value(instance["instance"].clone()).unwrap();
    let known = [id, gone];
    assert!(!remains(&instance, &server.data(), &known).is_empty(), "a running sandbox is seen");
    server.stop();
    let left = remains(&instance, &server.data(), &known);
    assert!(left.is_empty(), "{left:?}");
    assert!(!server.data().join("run/atoll.sock").exists());
}

#[test]
fn run_without_an_atoll_starts_one_for_itself_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(binary());
    command.arg("--data").arg(dir.path().join("none")).args(["run", "--memory", "256", "--", "uname", "-r"]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let ended = Ended::from(child.wait_with_output().unwrap());
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let host = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_ne!(ended.stdout.trim(), host.trim(), "the kernel is the guest's own");
    assert!(ended.stderr.contains("boot"), "phases are told: {ended:?}");
    assert!(!dir.path().join("none").exists());
    let mine =
        ended.stderr.split_whitespace().find(|word| word.starts_with("sb")).unwrap().trim_end_matches(':').to_owned();
    let lines: Vec<String> = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).into_owned())
        .filter(|line| line.contains(&mine))
        .collect();
    assert!(lines.is_empty(), "{lines:?}");
}
