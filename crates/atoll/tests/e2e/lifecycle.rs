//! Ends of Atoll itself, and many sandboxes at once.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use atoll_api::SandboxStatus;
use atoll_testkit::eventually;

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

#[tokio::test]
async fn an_orderly_stop_leaves_nothing_and_the_rows_say_so() {
    let data = Arc::new(Data::new());
    let server = Arc::new(Server::start_on(Arc::clone(&data)));
    let guest = Guest::on(Arc::clone(&server), &small()).await;
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
    let row = eventually("the create to end", settled).await;
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
    let guests = futures_util::future::join_all(many).await;
    let hosts: std::collections::BTreeSet<_> = guests.iter().map(|guest| guest.sandbox.host_ip.clone()).collect();
    assert_eq!(hosts.len(), 20, "each has an address of its own");
    assert_eq!(server.client().sandboxes().await.unwrap().len(), 20);
    let ends = guests.into_iter().map(Guest::end);
    futures_util::future::join_all(ends).await;
}
