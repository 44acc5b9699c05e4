//! What an Atoll finds when it starts again: a stream to go on with, a restarted machine, a newer build's sandbox, a long path.

use std::fs;
use std::path::Path;

use atoll_api::{SandboxStatus, StreamStart};
use atoll_client::{ExecEvent, ExecStream};

use super::world::{LIMIT, World, request, shell};

/// Reads until `wanted` bytes are there, or the program has ended.
async fn read(stream: &mut ExecStream, wanted: usize) -> (Vec<u8>, bool) {
    let mut out = Vec::new();
    while out.len() < wanted {
        match tokio::time::timeout(LIMIT, stream.next()).await.unwrap().unwrap() {
            ExecEvent::Stdout(bytes) => out.extend_from_slice(&bytes),
            ExecEvent::Exit(_) => return (out, true),
            ExecEvent::Started { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    (out, false)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_was_streaming_comes_back_at_its_offset_and_misses_no_byte() {
    let mut world = World::running().await;
    let id = world.client().create(&request()).await.unwrap().id;
    // It writes on while nobody is there to read, and ends only when it is told to.
    let line = "n=0; while [ $n -lt 4000 ] || [ ! -e /tmp/go ]; do n=$((n+1)); echo line $n; \
                [ $((n % 50)) = 0 ] && sleep 0.05; done; echo last";
    let args = vec!["-c".to_owned(), line.to_owned()];
    let start = StreamStart { cmd: "/bin/sh".into(), args, tag: Some("s".into()), ..StreamStart::default() };
    let mut stream = world.client().exec_stream(&id, start).await.unwrap();
    let (mut out, _) = read(&mut stream, 4000).await;
    let offset = stream.offset();
    world.kill();
    drop(stream);
    world.up().await;
    let client = world.client();
    let mut again = client.exec_reattach(&id, "s", offset).await.unwrap();
    out.extend(read(&mut again, 4000).await.0);
    shell(&client, &id, "touch /tmp/go").await.unwrap();
    let (rest, ended) = read(&mut again, usize::MAX).await;
    out.extend(rest);
    let text = String::from_utf8(out).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let wanted: Vec<String> = (1..lines.len()).map(|n| format!("line {n}")).chain(["last".to_owned()]).collect();
    assert!(ended && lines.len() > 4000 && lines == wanted, "{} lines came, not each once", lines.len());
}

fn edit(path: &Path, change: impl FnOnce(String) -> String) {
    let text = fs::read_to_string(path).unwrap();
    let changed = change(text.clone());
    assert_ne!(changed, text, "nothing to change in {}", path.display());
    fs::write(path, changed).unwrap();
}

/// A restart of the machine, simulated: the journal names another boot, and the processes are gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_of_the_machine_rows_say_what_became_of_their_sandboxes() {
    let mut world = World::running().await;
    let made = world.client().create(&request()).await.unwrap();
    let facts = world.client().sandbox(&made.id).await.unwrap().host.unwrap();
    world.kill();
    let keeper = nix::unistd::Pid::from_raw(i32::try_from(facts.keeper_pid.unwrap()).unwrap());
    nix::sys::signal::kill(keeper, nix::sys::signal::Signal::SIGKILL).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let another = "00000000-0000-4000-8000-000000000000";
    edit(&Path::new(&facts.directory).join("journal"), |text| text.replace(boot.trim(), another));
    world.up().await;
    let over = world.over(&made.id).await;
    assert_eq!(over.reason.as_deref(), Some("the machine was restarted"));
    world.agrees().await;
}

/// A newer build, simulated: what it would have written of the keeper, of the agent, or of a step that this one does not know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_of_a_newer_atoll_is_refused_by_name_and_left_running() {
    let mut world = World::running().await;
    let made = world.client().create(&request()).await.unwrap();
    let facts = world.client().sandbox(&made.id).await.unwrap().host.unwrap();
    shell(&world.client(), &made.id, "echo kept > /tmp/kept").await.unwrap();
    world.kill();
    let (spec, journal) = (Path::new(&facts.directory).join("spec.json"), Path::new(&facts.directory).join("journal"));
    let mut newer: serde_json::Value = serde_json::from_str(&fs::read_to_string(&spec).unwrap()).unwrap();
    newer["version"] = 9999.into();
    let lines = fs::read_to_string(&journal).unwrap();
    let agent = format!("{lines}{{\"step\":\"repaired\",\"protocol\":9999}}\n");
    let step = format!("{lines}{{\"step\":\"of_tomorrow\"}}\n");
    for (file, text, named) in
        [(&spec, newer.to_string(), "9999"), (&journal, agent, "protocol 9999"), (&journal, step, "wrote its journal")]
    {
        let original = fs::read_to_string(file).unwrap();
        fs::write(file, text).unwrap();
        world.up().await;
        let refused = shell(&world.client(), &made.id, "true").await.unwrap_err();
        assert!(refused.contains("newer Atoll") && refused.contains(named), "{refused}");
        assert!(Path::new(&format!("/proc/{}", facts.vmm_pid.unwrap())).exists(), "its VM was ended");
        let row = world.client().sandbox(&made.id).await.unwrap();
        assert_eq!(row.status, SandboxStatus::Running, "nobody says that it is over");
        world.kill();
        fs::write(file, original).unwrap();
        world.up().await;
        assert_eq!(shell(&world.client(), &made.id, "cat /tmp/kept").await.unwrap().stdout, "kept\n");
        world.agrees().await;
        world.kill();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_directory_with_a_long_path_works_from_end_to_end() {
    let mut world = World::below(&format!("{}/{}/data", "a".repeat(120), "b".repeat(120)));
    world.up().await;
    let made = world.client().create(&request()).await.unwrap();
    assert_eq!(shell(&world.client(), &made.id, "echo kept > /tmp/kept; echo ok").await.unwrap().stdout, "ok\n");
    world.up().await;
    assert_eq!(shell(&world.client(), &made.id, "cat /tmp/kept").await.unwrap().stdout, "kept\n");
    world.agrees().await;
    world.client().destroy(&made.id).await.unwrap();
    world.agrees().await;
}
