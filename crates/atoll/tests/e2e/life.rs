//! The life of a sandbox over the API: pause, resume, limits, templates.

use std::sync::Arc;

use atoll_api::{
    CreateSandboxRequest, CreateSnapshotRequest, ErrorCode, ModeRequest, SandboxStatus, UpdateSandboxRequest,
};
use atoll_testkit::eventually;

use crate::guest::{Guest, program, small};
use crate::server::{Data, Server, shared};

fn disk() -> ModeRequest {
    ModeRequest { mode: Some("disk".into()) }
}

const MEMORY: ModeRequest = ModeRequest { mode: None };

/// Waits until a sandbox is paused and answers it.
async fn paused(guest: &Guest) -> atoll_api::Sandbox {
    let look = || async {
        let row = guest.client.sandbox(guest.id()).await.unwrap();
        (row.status == SandboxStatus::Paused).then_some(row)
    };
    eventually("it to be paused", look).await
}

async fn kinds(guest: &Guest) -> Vec<String> {
    guest.client.events(guest.id(), 50).await.unwrap().into_iter().rev().map(|event| event.kind).collect()
}

#[tokio::test]
async fn a_paused_sandbox_goes_on_where_it_was() {
    let guest = Guest::new().await;
    guest.sh("echo kept > /root/file; echo memory > /dev/shm/file; nohup sleep 5000 >/dev/null 2>&1 &").await;
    let facts = "cat /proc/sys/kernel/random/boot_id /etc/machine-id; pgrep -x sleep; cat /root/file /dev/shm/file";
    let before = guest.sh(facts).await;
    let up = |text: String| text.parse::<f64>().unwrap();
    // A sample needs two looks; a sandbox that is paused before the second has used nothing yet.
    let sampled = || async {
        let points = guest.client.metrics(guest.id(), "10m").await.unwrap().points;
        (!points.is_empty()).then_some(points.len())
    };
    let sampled = eventually("it to be sampled", sampled).await;
    let uptime = up(guest.sh("cut -d' ' -f1 /proc/uptime").await);
    let kept = guest.client.pause(guest.id(), &MEMORY).await.unwrap();
    assert_eq!(kept.status, SandboxStatus::Paused);
    let what = kept.paused.unwrap();
    // Whether it was quiesced too depends on how fast a loaded machine lets its agent answer.
    assert!(what.mode == "memory" && what.bytes > 0 && what.took_ms.is_some(), "{what:?}");
    let facts_now = guest.server.local().sandbox(guest.id()).await.unwrap().host.unwrap();
    assert_eq!(facts_now.vmm_pid, None, "no VM of it is left");
    let refused = guest.try_exec(&program(&["true"])).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::InvalidState));
    // A host that is slow to say it is asked again.
    let kept = || async {
        let points = guest.client.metrics(guest.id(), "10m").await.unwrap().points;
        (points.len() >= sampled).then_some(())
    };
    eventually("what it used to be answered while it is paused", kept).await;
    assert_eq!(guest.client.resume(guest.id(), &MEMORY).await.unwrap().status, SandboxStatus::Running);
    assert_eq!(guest.sh(facts).await, before);
    assert!(up(guest.sh("cut -d' ' -f1 /proc/uptime").await) >= uptime);
    assert_eq!(kinds(&guest).await, ["created", "started", "paused", "resumed"]);
    guest.end().await;
}

#[tokio::test]
async fn its_samples_hold_what_the_guest_itself_sees_and_follow_it() {
    const MORE: u64 = 48 << 20;
    let guest = Guest::new().await;
    // The agent is asked every five seconds; the newest sample has what it said last.
    let newest = || async {
        let points = guest.client.metrics(guest.id(), "10m").await.unwrap().points;
        points.last().and_then(|point| point.guest_mem_bytes.zip(point.guest_disk_bytes))
    };
    let (memory, disk) = eventually("the guest's own figures", newest).await;
    let line = "set -- $(grep -E '^Mem(Total|Available):' /proc/meminfo); echo $(( ($2 - $5) * 1024 )); \
                df -B1 --output=used / | tail -n 1";
    let told = guest.sh(line).await;
    let told: Vec<u64> = told.split_whitespace().map(|word| word.parse().unwrap()).collect();
    let near = told.len() == 2 && memory.abs_diff(told[0]) < MORE && disk.abs_diff(told[1]) < MORE / 4;
    assert!(near, "memory {memory}, disk {disk}; the guest itself says {told:?}");
    guest.sh(&format!("fallocate -l {MORE} /root/more && head -c {MORE} /dev/zero > /dev/shm/more")).await;
    let grown = || async { newest().await.filter(|now| now.0 > memory + MORE / 2 && now.1 > disk + MORE / 2) };
    eventually("the figures to follow what the guest uses", grown).await;
    guest.end().await;
}

#[tokio::test]
async fn the_disk_alone_boots_again_with_what_was_written() {
    let guest = Guest::new().await;
    let boot = guest.sh("echo kept > /root/file; cat /proc/sys/kernel/random/boot_id").await;
    let kept = guest.client.pause(guest.id(), &disk()).await.unwrap().paused.unwrap();
    assert_eq!(kept.mode, "disk");
    guest.client.resume(guest.id(), &MEMORY).await.unwrap();
    assert_eq!(guest.sh("cat /root/file").await, "kept");
    assert_ne!(guest.sh("cat /proc/sys/kernel/random/boot_id").await, boot);
    guest.end().await;
}

#[tokio::test]
async fn a_timeout_pauses_it_and_the_next_use_resumes_it() {
    let request = CreateSandboxRequest { envs: Some([("COLOUR".into(), "blue".into())].into()), ..small() };
    let guest = Guest::on(shared(), &request).await;
    guest.sh("echo memory > /dev/shm/file").await;
    let change = UpdateSandboxRequest { timeout_sec: Some(2), auto_resume: Some(true), ..Default::default() };
    assert!(guest.client.update(guest.id(), &change).await.unwrap().auto_resume);
    paused(&guest).await;
    let change = UpdateSandboxRequest { timeout_sec: Some(0), ..Default::default() };
    guest.client.update(guest.id(), &change).await.unwrap();
    let (one, other) = tokio::join!(guest.sh("cat /dev/shm/file; echo $COLOUR"), guest.sh("cat /dev/shm/file"));
    assert_eq!((one.as_str(), other.as_str()), ("memory\nblue", "memory"));
    let told = kinds(&guest).await;
    let expected = ["created", "started", "lifetime_changed", "expired", "paused", "lifetime_changed", "resumed"];
    assert_eq!(told, expected);
    guest.end().await;
}

#[tokio::test]
async fn a_use_keeps_it_alive_beyond_its_timeout() {
    let guest = Guest::new().await;
    let change = UpdateSandboxRequest { timeout_sec: Some(4), ..Default::default() };
    let limit = async {
        eventually("the command", || async {
            (guest.exec(&["test", "-e", "/tmp/in"]).await.exit_code == 0).then_some(())
        })
        .await;
        guest.client.update(guest.id(), &change).await.unwrap();
        guest.sh("touch /tmp/set").await;
    };
    // Twice its timeout, and somebody waits for it.
    let line = "touch /tmp/in; until [ -e /tmp/set ]; do sleep 0.1; done; sleep 8; echo done";
    let (done, ()) = tokio::join!(guest.sh(line), limit);
    assert_eq!(done, "done");
    paused(&guest).await;
    guest.end().await;
}

#[tokio::test]
async fn a_deadline_that_is_to_destroy_it_does() {
    let end = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3600);
    let request = CreateSandboxRequest { end_at: Some(end.to_string()), on_expiry: Some("destroy".into()), ..small() };
    let guest = Guest::on(shared(), &request).await;
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(2);
    let change = UpdateSandboxRequest { end_at: Some(Some(soon.to_string())), ..Default::default() };
    guest.client.update(guest.id(), &change).await.unwrap();
    let over = || async {
        let row = guest.client.sandbox(guest.id()).await.unwrap();
        (row.status == SandboxStatus::Stopped).then_some(row)
    };
    let row = eventually("its end", over).await;
    assert!(row.reason.is_some(), "{row:?}");
}

#[tokio::test]
async fn a_template_of_a_running_sandbox_starts_others() {
    let guest = Guest::new().await;
    guest.sh("echo kept > /root/file; echo memory > /dev/shm/file; nohup sleep 5000 >/dev/null 2>&1 &").await;
    let name = format!("warm-{}", &guest.id()[2..12]);
    let request = CreateSnapshotRequest { sandbox_id: guest.id().to_owned(), name: Some(name.clone()) };
    // On a machine under load its agent may not answer in time, and then the sandbox is as it was.
    let made = eventually("the template", || async {
        match guest.client.create_snapshot(&request, false).await {
            Err(error) if error.code() == Some(ErrorCode::AgentBusy) => None,
            made => Some(made.unwrap()),
        }
    });
    let made = made.await;
    assert!(made.size_bytes > 0 && made.stood_still_ms.is_some(), "{made:?}");
    assert_eq!(guest.sh("pgrep -xc sleep").await, "1", "it goes on");
    let request = CreateSandboxRequest { template: Some(name.clone()), disk_mb: Some(1024), ..Default::default() };
    let copy = Guest::on(Arc::clone(&guest.server), &request).await;
    assert_eq!((copy.sandbox.memory_mb, copy.sandbox.disk_mb), (256, 1024));
    assert_eq!(copy.sh("cat /root/file /dev/shm/file; pgrep -xc sleep").await, "kept\nmemory\n1");
    for fact in ["cat /etc/machine-id", "hostname"] {
        assert_ne!(copy.sh(fact).await, guest.sh(fact).await, "{fact}");
    }
    guest.client.delete_snapshot(&name).await.unwrap();
    assert_eq!(copy.sh("cat /root/file").await, "kept", "what started from it goes on");
    copy.end().await;
    guest.end().await;
}

#[tokio::test]
async fn what_is_paused_outlives_a_killed_atoll() {
    let data = Arc::new(Data::new());
    let server = Arc::new(Server::start_on(Arc::clone(&data)));
    let guest = Guest::on(Arc::clone(&server), &small()).await;
    guest.sh("echo memory > /dev/shm/file").await;
    guest.client.pause(guest.id(), &MEMORY).await.unwrap();
    server.kill();
    let again = Arc::new(Server::start_on(data));
    again.note(guest.id());
    let client = again.client();
    assert_eq!(client.sandbox(guest.id()).await.unwrap().status, SandboxStatus::Paused);
    client.resume(guest.id(), &MEMORY).await.unwrap();
    let read = client.exec(guest.id(), &program(&["cat", "/dev/shm/file"])).await.unwrap();
    assert_eq!(read.stdout, "memory\n");
    client.destroy(guest.id()).await.unwrap();
}

#[tokio::test]
async fn the_command_line_leads_a_life() {
    let server = shared();
    let run = |arguments: Vec<String>| {
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let done = server.cli(&words).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        assert!(done.status.success(), "{words:?}: {}", text(&done.stderr));
        (text(&done.stdout), text(&done.stderr))
    };
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let (id, _) = run(words("create --memory 256 --disk 512 --boot cold --timeout 3600 --auto-resume"));
    server.note(&id);
    let (out, hint) = run(words(&format!("pause {id}")));
    assert_eq!(out, id);
    assert!(hint.contains("memory and disk"), "{hint}");
    assert!(run(words("ls")).0.contains("paused"));
    assert_eq!(run(words(&format!("resume -q {id}"))), (id.clone(), String::new()));
    run(words(&format!("update {id} --timeout 0 --auto-resume=false")));
    let name = format!("cli-{}", &id[2..12]);
    // On a machine under load its agent may not answer in time, and then the sandbox is as it was.
    let made = || async {
        let done = server.cli(&["snapshot", &id, &name]).output().unwrap();
        let hint = String::from_utf8_lossy(&done.stderr).into_owned();
        if done.status.code() == Some(5) {
            return None;
        }
        assert!(done.status.success(), "{hint}");
        Some((String::from_utf8_lossy(&done.stdout).trim_end().to_owned(), hint))
    };
    let (made, hint) = eventually("the template", made).await;
    assert_eq!(made, name);
    assert!(hint.contains("stood still"), "{hint}");
    assert!(run(words("template ls")).0.contains(&name));
    assert_eq!(run(words(&format!("template rm {name}"))).0, name);
    let sampled = || async { run(words("top --once")).0.lines().any(|line| line.starts_with(&id)).then_some(()) };
    eventually("it to be seen", sampled).await;
    assert!(run(words(&format!("metrics {id}"))).0.starts_with("TIME\t"));
    let (events, _) = run(words(&format!("events {id}")));
    for kind in ["created", "paused", "resumed", "lifetime_changed", "snapshotted"] {
        assert!(events.contains(kind), "{kind}: {events}");
    }
    run(words(&format!("rm {id}")));
}
