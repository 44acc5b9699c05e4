//! A kernel and a root file system of one's own, and the debug port, with real VMs.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use atoll_api::{CreateSandboxRequest, CreateSnapshotRequest, ErrorCode, ModeRequest};
use atoll_testkit::eventually;

use crate::guest::{Guest, program, small};
use crate::server::{Data, Server};

const DEBUG_PORT: &str = "127.0.0.1:49983";

/// A file of the cache, which is as good as a user's own.
fn cached(kind: &str, name: &str) -> PathBuf {
    let cache = std::env::var_os("ATOLL_CACHE").map_or_else(|| PathBuf::from("/var/cache/atoll"), PathBuf::from);
    let mut entries = std::fs::read_dir(cache.join(kind)).unwrap().flatten().map(|entry| entry.path().join(name));
    entries.find(|path| path.is_file()).unwrap_or_else(|| panic!("no {kind} in the cache"))
}

/// Asks over the debug port; answers the status and all that comes.
fn ask(head: &str, body: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(DEBUG_PORT).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let head = format!("{head}\r\nhost: {DEBUG_PORT}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let text = String::from_utf8_lossy(&answer).into_owned();
    (text.split(' ').nth(1).unwrap().parse().unwrap(), text)
}

#[tokio::test]
async fn files_of_ones_own_are_booted_and_the_agent_served() {
    let server = Arc::new(Server::start());
    let dir = tempfile::tempdir().unwrap();
    let (kernel, rootfs) = (dir.path().join("kernel"), dir.path().join("rootfs"));
    std::fs::copy(cached("kernels", "vmlinux"), &kernel).unwrap();
    std::fs::copy(cached("images", "base.ext4"), &rootfs).unwrap();
    let text = |path: &PathBuf| Some(path.display().to_string());
    let request = CreateSandboxRequest { kernel: text(&kernel), rootfs: text(&rootfs), debug_port: true, ..small() };
    let refused = server.client().create(&request).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::Forbidden), "{refused:?}");
    let local = server.local();
    for bad in [
        CreateSandboxRequest { kernel: text(&dir.path().join("none")), ..small() },
        CreateSandboxRequest { kernel: text(&rootfs), ..small() },
        CreateSandboxRequest { rootfs: text(&kernel), ..small() },
        CreateSandboxRequest { rootfs: Some("/dev/zero".into()), ..small() },
    ] {
        let refused = local.create(&bad).await.unwrap_err();
        assert_eq!(refused.code(), Some(ErrorCode::InvalidRequest), "{refused:?}");
    }
    let guest = Guest::with(Arc::clone(&server), local.clone(), &request).await;
    assert_eq!(guest.sandbox.template, "own");
    // What its owner does with the files afterwards is nothing to the sandbox.
    std::fs::write(&rootfs, "gone").unwrap();
    std::fs::remove_file(&kernel).unwrap();
    assert!(guest.sh("uname -r; cat /etc/os-release").await.contains("debian"));

    let second = local.create(&CreateSandboxRequest { debug_port: true, ..small() }).await.unwrap_err();
    assert!(second.code() == Some(ErrorCode::Conflict) && second.to_string().contains(guest.id()), "{second}");
    let message = br#"{"process":{"cmd":"/bin/echo","args":["by the port"]}}"#;
    let mut body = vec![0];
    body.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend(message);
    let start = "POST /process.Process/Start HTTP/1.1\r\ncontent-type: application/connect+json";
    let (status, said) = ask(start, &body);
    assert!(status == 200 && said.contains("YnkgdGhlIHBvcnQK"), "{said}");
    assert_eq!(ask("POST /init HTTP/1.1", b"{}").0, 404);
    assert_eq!(ask("GET /health HTTP/1.1\r\norigin: http://127.0.0.1:49983", b"").0, 403);
    assert_eq!(ask("GET /health HTTP/1.1", b"").0, 200);
    guest.end().await;
    eventually("the port to close", async || TcpStream::connect(DEBUG_PORT).is_err().then_some(())).await;
    server.stop();
    server.assert_nothing_left();
}

#[tokio::test]
async fn a_kernel_of_ones_own_outlives_atoll_and_a_pause() {
    let data = Arc::new(Data::new());
    let server = Arc::new(Server::start_on(Arc::clone(&data)));
    let dir = tempfile::tempdir().unwrap();
    let kernel = dir.path().join("kernel");
    std::fs::copy(cached("kernels", "vmlinux"), &kernel).unwrap();
    let request = CreateSandboxRequest { kernel: Some(kernel.display().to_string()), ..small() };
    let guest = Guest::with(Arc::clone(&server), server.local(), &request).await;
    std::fs::remove_file(&kernel).unwrap();
    // On the disk: what is only in memory goes with the memory.
    guest.sh("echo kept > /root/file; sync").await;
    server.kill();
    let again = Arc::new(Server::start_on(data));
    again.note(guest.id());
    let client = again.local();
    let read = async || client.exec(guest.id(), &program(&["cat", "/root/file"])).await.unwrap().stdout;
    assert_eq!(read().await, "kept\n");
    // A template would need the kernel when the sandbox is gone.
    let order = CreateSnapshotRequest { sandbox_id: guest.id().to_owned(), name: Some("own".into()) };
    let template = async || client.create_snapshot(&order, false).await.unwrap_err().code();
    assert_eq!(template().await, Some(ErrorCode::Conflict));
    client.pause(guest.id(), &ModeRequest { mode: None }).await.unwrap();
    assert_eq!(template().await, Some(ErrorCode::Conflict), "of a paused one, too");
    client.resume(guest.id(), &ModeRequest { mode: Some("disk".into()) }).await.unwrap();
    assert_eq!(read().await, "kept\n", "it boots with the kernel that it was given");
    client.destroy(guest.id()).await.unwrap();
    again.stop();
    again.assert_nothing_left();
}
