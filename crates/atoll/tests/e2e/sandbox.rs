//! Create, look, ping, destroy; what a fresh guest is like.

use atoll_api::{CreateSandboxRequest, ErrorCode, SandboxStatus};

use crate::guest::{Guest, small};
use crate::server::shared;

#[tokio::test]
async fn a_sandbox_is_made_seen_used_and_destroyed() {
    let request = CreateSandboxRequest {
        template: Some("minimal".into()),
        envs: Some([("COLOUR".to_owned(), "blue".to_owned())].into()),
        metadata: Some([("purpose".to_owned(), "test".to_owned())].into()),
        ..small()
    };
    let guest = Guest::on(shared(), &request).await;
    let (client, id) = (guest.client.clone(), guest.id().to_owned());
    assert_eq!((guest.sandbox.status, guest.sandbox.template.as_str()), (SandboxStatus::Running, "base"));
    assert_eq!((guest.sandbox.vcpus, guest.sandbox.memory_mb), (1, 256));
    assert_eq!(guest.sandbox.metadata["purpose"], "test");
    assert!(guest.sandbox.started_at.is_some());
    assert!(guest.sandbox.host.is_none(), "an API key does not see the machine");
    assert_eq!(guest.sh("echo $COLOUR").await, "blue");
    client.ping(&id).await.unwrap();
    let seen = client.sandbox(&id).await.unwrap();
    assert!(seen.last_active_at >= guest.sandbox.last_active_at);
    assert!(client.sandboxes().await.unwrap().iter().any(|sandbox| sandbox.id == id));
    assert_facts(&guest).await;
    client.destroy(&id).await.unwrap();
    client.destroy(&id).await.unwrap();
    assert_eq!(client.sandbox(&id).await.unwrap().status, SandboxStatus::Stopped);
    assert!(client.sandboxes().await.unwrap().iter().all(|sandbox| sandbox.id != id));
    for refused in [client.ping(&id).await.unwrap_err(), guest.read("/etc/hostname").await.unwrap_err()] {
        assert_eq!(refused.code(), Some(ErrorCode::InvalidState), "{refused:?}");
    }
    let left = guest.server.data.remains(std::slice::from_ref(&id));
    assert!(left.processes.is_empty() && !left.directories.contains(&id), "{left:?}");
}

/// The owner of the data directory sees what on the machine belongs to a sandbox, and it is so.
async fn assert_facts(guest: &Guest) {
    let facts = guest.server.local().sandbox(guest.id()).await.unwrap().host.expect("the owner sees the machine");
    let line = |pid: Option<u32>| {
        let text = std::fs::read(format!("/proc/{}/cmdline", pid.unwrap())).unwrap();
        String::from_utf8_lossy(&text).replace('\0', " ")
    };
    let (keeper, vmm) = (line(facts.keeper_pid), line(facts.vmm_pid));
    assert!(keeper.contains(guest.id()) && keeper.contains("atoll-keeper"), "{keeper}");
    assert!(vmm.contains(guest.id()), "{vmm}");
    assert!(vmm.split(' ').next().unwrap().ends_with("qemu-system-x86_64"), "{vmm}");
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", facts.keeper_pid.unwrap())).unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    let session: u32 = after_name.split_whitespace().nth(3).unwrap().parse().unwrap();
    assert_eq!(Some(session), facts.keeper_pid, "the keeper has a session of its own");
    assert!(std::path::Path::new(&facts.directory).is_dir());
    assert!(facts.phases.iter().any(|phase| phase.ms > 0.0), "{:?}", facts.phases);
    let links = std::fs::read_dir("/sys/class/net").unwrap().flatten();
    let interface = facts.interface.unwrap();
    assert!(links.into_iter().any(|link| link.file_name().to_string_lossy() == interface), "{interface}");
}

#[tokio::test]
async fn a_fresh_guest_is_a_machine_of_its_own() {
    let (one, other) = tokio::join!(Guest::new(), Guest::new());
    let kernel = one.sh("uname -r").await;
    assert_ne!(kernel, std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap().trim());
    for fact in ["cat /etc/machine-id", "cat /proc/sys/kernel/random/boot_id", "hostname"] {
        let (a, b) = (one.sh(fact).await, other.sh(fact).await);
        assert!(!a.is_empty() && a != b, "{fact}: {a} {b}");
    }
    assert_eq!(one.sh("id -un; echo $HOME; pwd").await, "root\n/root\n/root");
    assert_eq!(one.sh("id -un user; getent passwd user | cut -d: -f6").await, "user\n/home/user");
    let as_user = one.sh("runuser -u user -- bash -c 'id -un && sudo -n id -un && touch /home/user/x'").await;
    assert_eq!(as_user, "user\nroot");
    let python = "import sys, ssl, json, hashlib, tempfile; print(6 * 7); print(sys.version_info[0])";
    assert_eq!(one.python(python).await, "42\n3");
    assert_eq!(
        one.sh("python -c 'print(1)'; git --version | cut -d' ' -f1; curl --version | head -1 | cut -d' ' -f1").await,
        "1\ngit\ncurl"
    );
    for mount in ["/dev/shm", "/run", "/tmp"] {
        let line = format!("findmnt -no FSTYPE {mount} && touch {mount}/x && rm {mount}/x");
        assert_eq!(one.sh(&line).await, "tmpfs", "{mount}");
    }
    assert_eq!(one.sh("findmnt -no FSTYPE /sys/fs/cgroup; findmnt -no FSTYPE /dev/pts").await, "cgroup2\ndevpts");
    // The agent, which starts commands, is a child of the reaper; what loses its parent is the reaper's to bury.
    let agent = "[ $PPID != 1 ] && cut -d' ' -f4 /proc/$PPID/stat";
    assert_eq!(one.sh(agent).await, "1");
    let orphan = "p=$(sh -c 'sleep 0.2 >/dev/null & echo $!'); while [ -e /proc/$p ]; do sleep 0.1; done; echo buried";
    assert_eq!(one.sh(orphan).await, "buried");
    let shm = "import multiprocessing as m; q = m.Queue(); p = m.Process(target=q.put, args=(5,)); p.start(); print(q.get()); p.join()";
    assert_eq!(one.python(shm).await, "5", "semaphores in shared memory work");
    one.end().await;
    other.end().await;
}

#[tokio::test]
async fn another_key_and_no_key_see_nothing() {
    let guest = Guest::new().await;
    let line = format!("GET /v1/sandboxes/{}", guest.id());
    let none = crate::wire::send_as(&guest.server, &line, &["Accept: */*"], b"").await;
    assert_eq!((none.status, none.json()["error"]["code"].as_str()), (401, Some("unauthorized")));
    let wrong = format!("X-API-Key: atoll_{}", "0".repeat(40));
    assert_eq!(crate::wire::send_as(&guest.server, &line, &[&wrong], b"").await.status, 401);
    let digits = guest.server.api_key.strip_prefix("atoll_").unwrap().to_owned();
    let e2b = format!("X-API-Key: e2b_{digits}");
    assert_eq!(crate::wire::send_as(&guest.server, &line, &[&e2b], b"").await.status, 200);
    let capsules = line.replace("sandboxes", "capsules");
    let twin = crate::wire::send_as(&guest.server, &capsules, &[&e2b], b"").await;
    assert_eq!(twin.json()["id"], guest.id());
    let health = crate::wire::send_as(&guest.server, "GET /health", &["Accept: */*"], b"").await;
    assert_eq!((health.status, health.json()["status"].as_str()), (200, Some("ok")));
    guest.end().await;
}
