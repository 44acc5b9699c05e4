//! Ends of Atoll itself, and many sandboxes at once.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_api::SandboxStatus;
use atoll_client::ExecEvent;
use atoll_testkit::{BOOTS, eventually, patiently};

use crate::guest::{Guest, program, small};
use crate::server::{Data, LIMIT, Server, atoll};

/// Whether `/health` is answered with 200 now.
fn healthy(address: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else { return false };
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let asked = write!(stream, "GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let mut status = [0; 12];
    asked.and_then(|()| stream.read_exact(&mut status)).is_ok() && status == *b"HTTP/1.1 200"
}

/// The file's mode and text at the moment of the first answer.
fn at_first_answer(address: &str, file: &Path) -> (u32, String) {
    let since = Instant::now();
    while !healthy(address) {
        assert!(since.elapsed() < LIMIT, "nothing answers at {address}");
        std::thread::sleep(Duration::from_millis(1));
    }
    let mode = std::fs::metadata(file).map(|metadata| metadata.permissions().mode() & 0o7777);
    (mode.expect("the file is there"), std::fs::read_to_string(file).unwrap())
}

#[test]
fn the_admins_file_is_there_and_private_at_the_first_answer() {
    // An address of its own: a connection to 127.0.0.1 that comes before the server could meet itself.
    let address = TcpListener::bind("127.7.7.1:0").unwrap().local_addr().unwrap().to_string();
    let data = Arc::new(Data::new());
    let (asked, file) = (address.clone(), data.path().join("admin.json"));
    let first = std::thread::spawn(move || at_first_answer(&asked, &file));
    let server = Server::start_at(data, atoll(&[]), &address);
    let (mode, text) = first.join().unwrap();
    assert_eq!(mode, 0o600);
    let admin: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&admin["url"], &admin["api_key"]), (&server.url.as_str().into(), &server.api_key.as_str().into()));
    for field in ["email", "password", "team_id"] {
        assert!(admin[field].as_str().is_some_and(|text| !text.is_empty()), "{field}");
    }
}

#[test]
fn health_is_answered_before_there_is_any_image() {
    let cache = tempfile::tempdir().unwrap();
    let mut command = atoll(&[]);
    command.env("ATOLL_CACHE", cache.path());
    let server = Server::start_as(Arc::new(Data::new()), command);
    let address = server.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    write!(stream, "GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let images = cache.path().join("images");
    let finished = |entry: std::fs::DirEntry| !entry.file_name().to_string_lossy().starts_with('.');
    let built = std::fs::read_dir(images).into_iter().flatten().flatten().any(finished);
    assert!(!built, "an image was built before it was asked: nothing is shown");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let health: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(health["status"], "ok", "{health}");
    assert_eq!(health["version"], env!("CARGO_PKG_VERSION"), "{health}");
    // What is being built is called off.
    assert!(server.stop().success());
    server.assert_nothing_left();
}

/// Of a process that nobody reads so many of its last bytes are kept, and little more.
async fn assert_output_is_kept(guest: &Guest, kept: u64) {
    const WRITTEN: u64 = 1_000_000;
    let line = format!("head -c {WRITTEN} /dev/zero; touch /tmp/written; exec sleep 1000");
    let start = atoll_api::StreamStart {
        cmd: "bash".into(),
        args: vec!["-c".into(), line],
        tag: Some("talker".into()),
        ..Default::default()
    };
    drop(guest.client.exec_stream(guest.id(), start).await.unwrap());
    guest.sh("until [ -e /tmp/written ]; do sleep 0.05; done").await;
    let mut late = guest.client.exec_reattach(guest.id(), "talker", 0).await.unwrap();
    let (mut came, mut missed) = (0, 0);
    while came + missed < WRITTEN {
        match atoll_testkit::within("the output", late.next()).await.unwrap() {
            ExecEvent::Stdout(bytes) => came += bytes.len() as u64,
            ExecEvent::Gap(bytes) => missed += bytes,
            ExecEvent::Started { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    // Its pieces are of 32 KiB, and whole ones are forgotten.
    assert!((kept..kept + (64 << 10)).contains(&came), "{came} bytes were kept, {missed} not");
}

#[tokio::test]
async fn an_orderly_stop_leaves_nothing_and_the_rows_say_so() {
    let data = Arc::new(Data::new());
    let mut command = atoll(&[]);
    command.env("ATOLL_OUTPUT_KB", "64");
    let server = Arc::new(Server::start_as(Arc::clone(&data), command));
    let guest = Guest::on(Arc::clone(&server), &small()).await;
    assert_output_is_kept(&guest, 64 << 10).await;
    assert!(!data.remains(&server.made()).is_empty(), "the search finds what is there");
    assert!(server.stop().success());
    server.assert_nothing_left();
    let again = Server::start_on(data);
    let row = again.client().sandbox(guest.id()).await.unwrap();
    assert_eq!(row.status, SandboxStatus::Stopped, "{row:?}");
}

#[tokio::test]
async fn after_a_kill_the_next_start_takes_over_what_runs_and_marks_what_ended() {
    let data = Arc::new(Data::new());
    let server = Arc::new(Server::start_on(Arc::clone(&data)));
    let guest = Guest::on(Arc::clone(&server), &small()).await;
    let lost = Guest::on(Arc::clone(&server), &small()).await;
    guest.sh("nohup sleep 5000 >/dev/null 2>&1 & echo kept > /tmp/kept").await;
    let vmm = server.local().sandbox(lost.id()).await.unwrap().host.and_then(|host| host.vmm_pid).unwrap();
    server.kill();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(vmm).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    let again = Arc::new(Server::start_on(Arc::clone(&data)));
    assert_eq!(again.api_key, server.api_key, "the key of the first start is still the key");
    for id in server.made() {
        again.note(&id);
    }
    let client = again.client();
    let over = || async {
        let row = client.sandbox(lost.id()).await.unwrap();
        (row.status == SandboxStatus::Stopped).then_some(row)
    };
    let row = eventually("the row to be marked", over).await;
    assert!(row.reason.is_some(), "{row:?}");
    let done = client.exec(guest.id(), &program(&["bash", "-c", "cat /tmp/kept; pgrep -xc sleep"])).await.unwrap();
    assert_eq!(done.stdout, "kept\n1\n");
    client.destroy(guest.id()).await.unwrap();
    let given_back = || async {
        let left = data.remains(&again.made());
        (left.processes.is_empty() && left.directories.is_empty() && left.slots.is_empty()).then_some(())
    };
    eventually("everything to be given back", given_back).await;
}

#[tokio::test]
async fn a_client_that_goes_away_during_create_leaves_a_running_sandbox_or_none() {
    let server = Arc::new(Server::start());
    let client = server.client();
    let asker = client.clone();
    let task = tokio::spawn(async move { asker.create(&small()).await });
    let listed = || async { client.sandboxes().await.unwrap().into_iter().next() };
    let pending = eventually("the row", listed).await;
    server.note(&pending.id);
    task.abort();
    let settled = || async {
        let row = client.sandbox(&pending.id).await.unwrap();
        (row.status != SandboxStatus::Pending).then_some(row)
    };
    let row = patiently(BOOTS, "the create to end", settled).await;
    assert_eq!(row.status, SandboxStatus::Running, "{row:?}");
    let done = client.exec(&pending.id, &program(&["echo", "here"])).await.unwrap();
    assert_eq!(done.stdout, "here\n");
    client.destroy(&pending.id).await.unwrap();
}

#[tokio::test]
async fn a_destroy_during_create_leaves_nothing() {
    let server = Arc::new(Server::start());
    let client = server.client();
    let asker = client.clone();
    let task = tokio::spawn(async move { asker.create(&small()).await });
    let listed = || async { client.sandboxes().await.unwrap().into_iter().next() };
    let pending = eventually("the row", listed).await;
    server.note(&pending.id);
    client.destroy(&pending.id).await.unwrap();
    let created = atoll_testkit::within("the create to be told", task).await.unwrap();
    assert!(created.is_err(), "{created:?}");
    assert_eq!(client.sandbox(&pending.id).await.unwrap().status, SandboxStatus::Stopped);
    let left = server.data.remains(&server.made());
    assert!(left.processes.is_empty() && left.directories.is_empty() && left.slots.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_guest_that_powers_off_is_marked_and_leaves_nothing() {
    let server = Arc::new(Server::start());
    let guest = Guest::on(Arc::clone(&server), &small()).await;
    // The answer is lost with the machine, or comes just before.
    let _ = guest.try_exec(&program(&["bash", "-c", "echo b > /proc/sysrq-trigger || reboot -f"])).await;
    let over = || async {
        let row = guest.client.sandbox(guest.id()).await.unwrap();
        (row.status == SandboxStatus::Stopped).then_some(row)
    };
    let row = eventually("the end to be told", over).await;
    assert!(row.reason.is_some(), "{row:?}");
    let cleaned = || async {
        let left = server.data.remains(&server.made());
        (left.processes.is_empty() && left.directories.is_empty()).then_some(())
    };
    eventually("everything to be given back", cleaned).await;
}

/// As many guests boot at once as the host has cores: never more, or the time that they took would be more than that many clocks show;
/// and not one after the other, or it would be less than one shows.
async fn assert_boots_shared_the_cores(guests: &[Guest], took: Duration) {
    let cores = u32::try_from(std::thread::available_parallelism().unwrap().get()).unwrap();
    let (mut booting, mut waited) = (0.0, 0);
    for guest in guests {
        let phases = guest.server.local().sandbox(guest.id()).await.unwrap().host.unwrap().phases;
        let of = |names: &[&str]| {
            phases.iter().filter(|phase| names.contains(&phase.name.as_str())).map(|phase| phase.ms).sum::<f64>()
        };
        let boot = of(&["keeper", "boot", "init"]);
        assert!(boot > 0.0, "{phases:?}");
        booting += boot / 1000.0;
        // Longer than a whole boot: it stood in the queue.
        waited += u32::from(of(&["queue"]) > boot);
    }
    let most = f64::from(cores) * took.as_secs_f64();
    println!("{} boots took {booting:.1} s on {cores} cores in {:.1} s", guests.len(), took.as_secs_f64());
    assert!(booting <= most, "{booting:.1} s of boots in {most:.1} s of {cores} cores: too many at once");
    let alone = cores < 2 || booting > took.as_secs_f64();
    assert!(alone, "{booting:.1} s of boots in {:.1} s: one after the other", took.as_secs_f64());
    assert!(waited > 0, "no boot had to wait for another");
}

#[tokio::test]
async fn twenty_created_at_once_all_answer() {
    let server = Arc::new(Server::start());
    let request = atoll_api::CreateSandboxRequest { memory_mb: Some(128), disk_mb: Some(64), ..Default::default() };
    let many = (0..20).map(|n: u32| {
        let (server, request) = (Arc::clone(&server), request.clone());
        async move {
            let guest = Guest::on(server, &request).await;
            let done = guest.try_exec(&program(&["echo", &n.to_string()])).await.unwrap();
            assert_eq!(done.stdout, format!("{n}\n"));
            guest
        }
    });
    let since = Instant::now();
    let guests = futures_util::future::join_all(many).await;
    assert_boots_shared_the_cores(&guests, since.elapsed()).await;
    let hosts: std::collections::BTreeSet<_> = guests.iter().map(|guest| guest.sandbox.host_ip.clone()).collect();
    assert_eq!(hosts.len(), 20, "each has an address of its own");
    assert_eq!(server.client().sandboxes().await.unwrap().len(), 20);
    let ends = guests.into_iter().map(Guest::end);
    futures_util::future::join_all(ends).await;
}
