//! What an Atoll finds when it starts again: sandboxes as they were, a stream to go on with, a restarted machine, a newer build's
//! sandbox, a long path, claims that were wiped.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use atoll_api::{CreateSandboxRequest, ModeRequest, SandboxStatus, StreamStart};
use atoll_client::{ExecEvent, ExecStream};
use atoll_net::{Pool, Slot, Slots};

use super::holding::holding;
use super::world::{LIMIT, World, request, shell, until};

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

/// The keeper has a sandbox's secrets in its memory, so that they need lie on no disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orderly_stop_keeps_sandboxes_as_they_were_and_leaves_no_secret_on_the_disk() {
    let mut world = World::running().await;
    let secret = format!("secret-{}", world.file("").display()).replace('/', "-");
    let pair = |name: &str, value: &str| Some([(name.to_owned(), value.to_owned())].into());
    let request = CreateSandboxRequest {
        envs: pair("WORD", &secret),
        metadata: pair("purpose", "to be kept"),
        timeout_sec: Some(1234),
        ..request()
    };
    let made = world.client().create(&request).await.unwrap();
    // A file that has no name any more, and a timer, both of one process.
    let line = "exec 9<>/tmp/open; rm /tmp/open; echo held >&9; (sleep 3; echo rang > /tmp/rang; cat /proc/self/fd/9 > /tmp/r; \
                mv /tmp/r /tmp/read; sleep 1000) >/dev/null 2>&1 & echo $! > /tmp/pid";
    shell(&world.client(), &made.id, line).await.unwrap();
    let before = world.client().sandbox(&made.id).await.unwrap();
    assert_eq!(
        holding(&world.data(), "to be kept"),
        format!("{}\n", world.data().join("atoll.db-wal").display()),
        "what is no secret is found"
    );
    assert_eq!(holding(&world.data(), &secret), "", "while it runs");

    assert!(world.stop(), "{}", world.last_log());
    assert!(
        Path::new(&format!("/proc/{}", before.host.as_ref().unwrap().vmm_pid.unwrap())).exists(),
        "its VM was ended"
    );
    assert_eq!(holding(&world.data(), &secret), "", "while no Atoll runs");
    world.up().await;
    let client = world.client();
    let after = client.sandbox(&made.id).await.unwrap();
    let (then, now) = (before.host.unwrap(), after.host.unwrap());
    assert_eq!((now.keeper_pid, now.vmm_pid), (then.keeper_pid, then.vmm_pid));
    assert_eq!((&after.metadata, after.timeout_sec), (&before.metadata, 1234));
    assert_eq!(after.metadata["purpose"], "to be kept");
    let said = shell(&client, &made.id, "kill -0 $(cat /tmp/pid) && printf %s \"$WORD\"").await.unwrap();
    assert_eq!((said.exit_code, said.stdout), (0, secret));
    let rang = until("its timer", LIMIT, async || match shell(&client, &made.id, "cat /tmp/rang /tmp/read").await? {
        said if said.exit_code == 0 => Ok(said.stdout),
        said => Err(said.stderr),
    });
    // Read from its beginning, through a descriptor of its own.
    assert_eq!(rang.await.unwrap(), "rang\nheld\n");
    world.agrees().await;
}

fn edit(path: &Path, change: impl FnOnce(String) -> String) {
    let text = fs::read_to_string(path).unwrap();
    let changed = change(text.clone());
    assert_ne!(changed, text, "nothing to change in {}", path.display());
    fs::write(path, changed).unwrap();
}

/// A restart of the machine, simulated: the journals name another boot, and the processes are gone. What was paused outlives it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_of_the_machine_rows_say_what_became_of_their_sandboxes() {
    let mut world = World::running().await;
    let made = world.client().create(&request()).await.unwrap();
    let facts = world.client().sandbox(&made.id).await.unwrap().host.unwrap();
    let kept = world.client().create(&request()).await.unwrap();
    shell(&world.client(), &kept.id, "echo held > /dev/shm/held").await.unwrap();
    let memory = ModeRequest { mode: None };
    world.client().pause(&kept.id, &memory).await.unwrap();
    let kept_in = world.client().sandbox(&kept.id).await.unwrap().host.unwrap().directory;
    world.kill();
    let keeper = nix::unistd::Pid::from_raw(i32::try_from(facts.keeper_pid.unwrap()).unwrap());
    nix::sys::signal::kill(keeper, nix::sys::signal::Signal::SIGKILL).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let another = "00000000-0000-4000-8000-000000000000";
    for directory in [&facts.directory, &kept_in] {
        edit(&Path::new(directory).join("journal"), |text| text.replace(boot.trim(), another));
    }
    world.up().await;
    let over = world.over(&made.id).await;
    assert_eq!(over.reason.as_deref(), Some("the machine was restarted"));
    let client = world.client();
    assert_eq!(client.sandbox(&kept.id).await.unwrap().status, SandboxStatus::Paused);
    world.agrees().await;
    client.resume(&kept.id, &memory).await.unwrap();
    assert_eq!(shell(&client, &kept.id, "cat /dev/shm/held").await.unwrap().stdout, "held\n");
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

/// Addresses that nobody has.
fn elsewhere() -> Pool {
    Pool::parse("198.18.0.0/16").unwrap()
}

/// Claims of somebody who does not exist, given back however the test ends.
struct Claims(atoll_domain::InstanceId, Vec<atoll_domain::SandboxId>);

impl Claims {
    /// As many as make everybody's next number a high one.
    fn fill(count: u8) -> Self {
        let claims = Self(
            atoll_domain::InstanceId::from_random([0xfa, 0x11, 0xed]),
            (0..count).map(|n| atoll_domain::SandboxId::from_random([n; 16])).collect(),
        );
        for id in &claims.1 {
            Slots::of_machine().claim(&claims.0, id, elsewhere()).unwrap();
        }
        claims
    }

    fn give_back(&self) {
        self.1.iter().for_each(|id| Slots::of_machine().release(&self.0, id).unwrap());
    }
}

impl Drop for Claims {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// `/run/atoll` may be wiped while VMs run. Others run on this machine, so only this sandbox's own claim is: its number is a high one,
/// and lower ones are free for whoever wants one meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_whose_claim_was_wiped_has_its_slot_again_and_is_left_alone_if_somebody_else_has_it() {
    let others = Claims::fill(24);
    let mut world = World::running().await;
    let made = world.client().create(&request()).await.unwrap();
    shell(&world.client(), &made.id, "echo kept > /tmp/kept").await.unwrap();
    let facts = world.client().sandbox(&made.id).await.unwrap().host.unwrap();
    others.give_back();
    let slot = Slot::of_uid(facts.uid.unwrap()).unwrap();
    let claim = Path::new("/run/atoll/slots").join(slot.0.to_string());
    let own = fs::read_to_string(&claim).unwrap();

    world.kill();
    fs::remove_file(&claim).unwrap();
    world.up().await;
    assert_eq!(fs::read_to_string(&claim).unwrap(), own);
    assert_eq!(shell(&world.client(), &made.id, "cat /tmp/kept").await.unwrap().stdout, "kept\n");
    world.agrees().await;

    world.kill();
    fs::remove_file(&claim).unwrap();
    Slots::of_machine().claim_again(&others.0, &others.1[0], elsewhere(), slot).unwrap();
    world.up().await;
    let refused = shell(&world.client(), &made.id, "true").await.unwrap_err();
    assert!(refused.contains(&format!("network slot {} was given to", slot.0)), "{refused}");
    assert!(Path::new(&format!("/proc/{}", facts.vmm_pid.unwrap())).exists(), "its VM was ended");
    let namespace = facts.namespace.unwrap();
    assert!(Path::new("/run/netns").join(&namespace).exists(), "{namespace} was taken for a leftover");

    world.kill();
    others.give_back();
    world.up().await;
    assert_eq!(shell(&world.client(), &made.id, "cat /tmp/kept").await.unwrap().stdout, "kept\n");
    world.agrees().await;
}

/// Records and host are compared all the while, also when everything is already left to the next start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_that_a_request_holds_up_takes_no_sandbox_for_gone() {
    let mut world = World::running().await;
    let id = world.client().create(&request()).await.unwrap().id;
    let before = world.client().sandbox(&id).await.unwrap().host.unwrap();
    // Its body never comes: it is waited for as long as requests are, which is longer than a round of the comparison.
    let mut slow = UnixStream::connect(world.data().join("run/atoll.sock")).unwrap();
    let head = "POST /v1/sandboxes HTTP/1.1\r\nhost: atoll\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\
                expect: 100-continue\r\n\r\n";
    slow.write_all(head.as_bytes()).unwrap();
    let mut begun = [0; 12];
    slow.read_exact(&mut begun).unwrap();
    assert_eq!(&begun, b"HTTP/1.1 100");
    let asked = std::time::Instant::now();
    assert!(world.stop(), "{}", world.last_log());
    println!("the stop took {:.1} s", asked.elapsed().as_secs_f32());
    assert!(world.last_log().contains("a request was still under way"), "nothing held it up: {}", world.last_log());
    world.up().await;
    let after = world.client().sandbox(&id).await.unwrap();
    assert_eq!(after.status, SandboxStatus::Running, "{:?}", after.reason);
    assert_eq!(after.host.unwrap().vmm_pid, before.vmm_pid);
    world.agrees().await;
}
