//! Create, list, look, run, destroy; and what is left afterwards.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use atoll_host::remains;

use crate::server::{Ended, PATIENCE, Server, binary};

/// `logs -f` prints what the console says while it runs, once, and ends with the sandbox or an interrupt.
fn follows_the_console(server: &Server, id: &str) {
    let say = |text: &str| server.ok(&["exec", id, "--", "sh", "-c", &format!("echo {text} > /dev/console")]);
    say("said-$((20 + 1))-before");
    let mut following = server.atoll(&["logs", "-f", id]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines().map(Result::unwrap);
    let (sender, heard) = std::sync::mpsc::sync_channel(64);
    // Ends with the output; nobody may listen any more.
    let reader = std::thread::spawn(move || lines.try_for_each(|line| sender.send(line)));
    let mut all = Vec::new();
    let mut until = |text: &str| {
        while !all.last().is_some_and(|line: &String| line.contains(text)) {
            all.push(heard.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no `{text}` after {all:?}")));
        }
    };
    until("said-21-before");
    say("said-$((20 + 2))-meanwhile");
    until("said-22-meanwhile");
    say("said-$((20 + 3))-later");
    until("said-23-later");
    for text in ["said-21-before", "said-22-meanwhile", "said-23-later"] {
        assert_eq!(all.iter().filter(|line| line.contains(text)).count(), 1, "{text}: {all:?}");
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(following.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let ended = following.wait().unwrap();
    assert!(ended.success(), "{ended}");
    drop(heard);
    let _ = reader.join().unwrap();
}

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

    follows_the_console(&server, &id);

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
