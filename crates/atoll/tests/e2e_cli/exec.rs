//! Commands that read and write at once, are interrupted, listed and killed; and the small commands beside them.

use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::server::{PATIENCE, Server};

/// The processes that run in a sandbox, by `atoll ps`.
fn processes(server: &Server, id: &str) -> Vec<serde_json::Value> {
    let listed: serde_json::Value = serde_json::from_str(&server.ok(&["ps", id, "-o", "json"])).unwrap();
    let listed = listed.get("processes").cloned().unwrap_or(listed);
    listed.as_array().unwrap().clone()
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what} does not come about");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A program that writes eight times what it reads.
fn all_comes_back(server: &Server, id: &str) {
    let echo = "import sys\nfor b in iter(lambda: sys.stdin.buffer.read(4096), b''): sys.stdout.buffer.write(b * 8)";
    let mut child = server.atoll(&["exec", "-i", id, "--", "python3", "-c", echo]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let input: Vec<u8> = (0..262_144_u32).flat_map(|n| n.to_le_bytes()).collect();
    let expected: Vec<u8> = input.chunks(4096).flat_map(|piece| piece.repeat(8)).collect();
    let mut stdin = child.stdin.take().unwrap();
    let sender = std::thread::spawn(move || stdin.write_all(&input).unwrap());
    let output = child.wait_with_output().unwrap();
    sender.join().unwrap();
    assert!(output.status.success(), "{}", output.status);
    assert!(output.stdout == expected, "{} of {} bytes came back", output.stdout.len(), expected.len());
}

/// The first interrupt kills a program that prints without end.
fn interrupt_kills(server: &Server, id: &str) {
    let mut child = server.atoll(&["exec", id, "--", "yes"]);
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 1000]).unwrap();
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    let rest = std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    assert_eq!(child.wait().unwrap().code(), Some(130));
    rest.join().unwrap().unwrap();
    until("its end", || processes(server, id).is_empty());
}

fn one_is_listed_and_killed(server: &Server, id: &str) {
    let mut child = server.atoll(&["exec", id, "--", "sleep", "4242"]).spawn().unwrap();
    until("a process", || !processes(server, id).is_empty());
    let pid = processes(server, id)[0]["pid"].to_string();
    assert!(server.ok(&["ps", id]).contains("4242"));
    server.ok(&["kill", id, &pid]);
    assert_eq!(child.wait().unwrap().code(), Some(143), "by SIGTERM");
    assert_eq!(server.run(&["kill", id, &pid]).code, Some(3), "it is gone");
}

#[test]
fn commands_read_and_write_at_once_and_are_interrupted_listed_and_killed() {
    let server = Server::start();
    let id = server.create();
    all_comes_back(&server, &id);
    interrupt_kills(&server, &id);
    one_is_listed_and_killed(&server, &id);

    let mut copy = server.atoll(&["cp", "-", &format!("{id}:/root/from-stdin")]);
    let mut copy = copy.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    copy.stdin.take().unwrap().write_all(b"by the pipe\n").unwrap();
    let copied = copy.wait_with_output().unwrap();
    assert!(copied.status.success() && copied.stderr.is_empty(), "no bar in a pipe: {copied:?}");
    assert_eq!(server.ok(&["exec", &id, "--", "cat", "/root/from-stdin"]), "by the pipe");

    for shell in ["bash", "zsh", "fish"] {
        assert!(server.ok(&["completion", shell]).contains("atoll"), "{shell}");
    }
    let findings: serde_json::Value = serde_json::from_str(&server.run(&["doctor", "-o", "json"]).stdout).unwrap();
    let named =
        |check: &str| findings.as_array().unwrap().iter().any(|f| f["check"] == check && f["level"].is_string());
    for check in ["vmm", "kvm", "cgroups", "yama", "smt", "ksm", "clock"] {
        assert!(named(check), "{check} is not in {findings}");
    }
}
