//! What a restored copy must not share with what it was made of, and what a resume must not show: docs/fork-correctness.md, tried.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use atoll_control::ports::HostDriver as _;
use atoll_domain::host::{GuestToken, PauseMode};
use atoll_guest_client::{AGENT_PORT, AccessToken, GuestClient, GuestStream, StartRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::scene::{Sandbox, Scene};

/// As long as a sandbox is left paused: what is tried is that this time has passed for the guest, too.
const AWAY: Duration = Duration::from_secs(10);

/// Every millisecond a line: wall clock, monotonic clock, life, the kernel's randomness, and that of a program's own generator, which
/// it seeds again when the fork file changes.
const LOGGER: &str = r#"
import os, random, time
life, own = "", None
with open("/root/log", "w", buffering=1) as log:
    while True:
        now = open("/run/atoll/generation").read().strip() if os.path.exists("/run/atoll/generation") else "first"
        if now and now != life:
            life, own = now, random.Random(os.urandom(32))
        wall, steady = time.time_ns(), time.monotonic_ns()
        log.write(f"{wall} {steady} {life} {os.urandom(16).hex()} {own.getrandbits(128):032x}\n")
        time.sleep(0.001)
"#;

/// Talks to a neighbour process and to whoever called from outside, and says how often and how the latter ended.
const TALKER: &str = r#"
import os, socket, threading, time
inner = socket.create_server(("127.0.0.1", 7001))
def echo():
    peer, _ = inner.accept()
    while True:
        peer.sendall(peer.recv(1))
threading.Thread(target=echo, daemon=True).start()
near = socket.create_connection(("127.0.0.1", 7001))
outer = socket.create_server(("0.0.0.0", 7000))
open("/dev/shm/listens", "w").close()
far, _ = outer.accept()
count = 0
while True:
    near.sendall(b".")
    if near.recv(1) != b".":
        break
    try:
        if far:
            far.sendall(b".")
    except OSError as error:
        open("/dev/shm/ended", "w").write(repr(error))
        far = None
    count += 1
    open("/dev/shm/new", "w").write(str(count))
    os.replace("/dev/shm/new", "/dev/shm/count")
    time.sleep(0.02)
"#;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    wall: u128,
    steady: u128,
    life: String,
    kernel: String,
    own: String,
}

async fn start(sandbox: &Sandbox, program: &str) {
    let line = format!("cat > /root/p.py <<'EOF'\n{program}\nEOF\nnohup python3 /root/p.py >/dev/null 2>/root/err &");
    sandbox.sh(&line).await;
}

async fn log(sandbox: &Sandbox) -> Vec<Line> {
    let text = sandbox.sh("cat /root/log").await;
    let read = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let [wall, steady, life, kernel, own] = words.as_slice() else { return None };
        let line = Line {
            wall: wall.parse().ok()?,
            steady: steady.parse().ok()?,
            life: (*life).to_owned(),
            kernel: (*kernel).to_owned(),
            own: (*own).to_owned(),
        };
        // The last line may have been read while it was written.
        (line.own.len() == 32).then_some(line)
    };
    text.lines().filter_map(read).collect()
}

/// Waits until the program has written in this life, and some more.
async fn written(sandbox: &Sandbox) {
    let count = async || {
        let lines = "grep -c \" $(cat /run/atoll/generation 2>/dev/null || echo first) \" /root/log || true";
        sandbox.sh(lines).await.parse::<usize>().ok().filter(|count| *count > 50).map(drop)
    };
    atoll_testkit::eventually("the program to write", count).await;
}

fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()
}

/// Neither goes back where time goes on: the monotonic clock from line to line.
fn forward(lines: &[Line]) {
    for pair in lines.windows(2) {
        assert!(pair[1].steady >= pair[0].steady, "the monotonic clock went back: {pair:?}");
    }
}

async fn copy(scene: &Scene, token: &GuestToken) -> Sandbox {
    scene
        .create(|request| {
            request.spec.snapshot = Some("t1".into());
            request.inherited = Some(token.clone());
            request.secrets.envs.insert("GREETING".into(), "of the copy".into());
        })
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_clock_is_stale_and_no_draw_is_shared() {
    let scene = Scene::new().await;
    let mut sandbox = scene.create(|_| {}).await;
    start(&sandbox, LOGGER).await;
    written(&sandbox).await;
    sandbox.pause_quiesced().await;
    let asleep = now();
    atoll_testkit::eventually("time to pass", async || (now() > asleep + AWAY.as_nanos()).then_some(())).await;
    let awake = now();
    sandbox.resume(PauseMode::Memory).await;
    written(&sandbox).await;
    let lines = log(&sandbox).await;
    let first = lines.iter().position(|line| line.wall >= asleep).expect("it goes on");
    assert!(first > 0 && lines.len() > first + 50);
    // A line that was begun before the pause may stand first; it has the time of then, and is no line after the thaw.
    let (before, after) = lines.split_at(first);
    assert!(after.iter().all(|line| line.wall >= awake), "a line shows a time at which it was paused");
    assert!(before.iter().all(|line| line.life != after[1].life), "the fork file changed before the clock did");
    assert!(after[1..].iter().all(|line| line.life == after[1].life));
    forward(&lines);
    let drawn: BTreeSet<&str> = lines.iter().flat_map(|line| [line.kernel.as_str(), line.own.as_str()]).collect();
    assert_eq!(drawn.len(), lines.len() * 2, "something was drawn twice");

    sandbox.template("t1").await;
    let asked = now();
    let token = sandbox.request.secrets.token.clone();
    let (one, two) = (copy(&scene, &token).await, copy(&scene, &token).await);
    for each in [&sandbox, &one, &two] {
        written(each).await;
    }
    let logs = [log(&sandbox).await, log(&one).await, log(&two).await];
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        let (a, b) = (&logs[a], &logs[b]);
        let common = a.iter().zip(b).take_while(|(a, b)| a == b).count();
        assert!(common > first && common < a.len() && common < b.len(), "they have a past and each its own way");
        let kernel = |lines: &[Line]| lines[common..].iter().map(|l| l.kernel.clone()).collect::<BTreeSet<_>>();
        assert!(kernel(a).is_disjoint(&kernel(b)), "the kernels drew the same");
        // One draw may lie between the program's looks at the fork file.
        let own = |lines: &[Line]| lines[common + 1..].iter().map(|l| l.own.clone()).collect::<BTreeSet<_>>();
        assert!(own(a).is_disjoint(&own(b)), "programs that watch the fork file drew the same");
    }
    for lines in &logs[1..] {
        forward(lines);
        let common = logs[0].iter().zip(lines).take_while(|(a, b)| a == b).count();
        let own = &lines[common + 1..];
        assert!(own.iter().all(|line| line.wall >= asked), "a copy shows the time of its template");
        assert!(own.iter().all(|line| line.life == own[0].life), "one life");
        assert!(logs[0].iter().all(|line| line.life != own[0].life), "of its own");
    }
    assert_ne!(logs[1].last().unwrap().life, logs[2].last().unwrap().life);
    drop((sandbox, one, two));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_has_names_a_token_variables_and_a_network_of_its_own() {
    let scene = Scene::new().await;
    let sandbox = scene.create(|_| {}).await;
    // The kernel draws it when it is read first.
    let boot = "cat /proc/sys/kernel/random/boot_id";
    let id = sandbox.sh(boot).await;
    sandbox.template("t1").await;
    let token = sandbox.request.secrets.token.clone();
    let (one, two) = (copy(&scene, &token).await, copy(&scene, &token).await);
    let all = [&sandbox, &one, &two];
    for own in ["cat /etc/machine-id", "hostname", "cat /run/atoll/generation 2>/dev/null || true"] {
        let mut said = BTreeSet::new();
        for each in all {
            said.insert(each.sh(own).await);
        }
        assert_eq!(said.len(), 3, "{own}: {said:?}");
    }
    for copy in [&one, &two] {
        assert_eq!(copy.sh("grep -c \"$(hostname)\" /etc/hosts; cat /etc/hostname").await, {
            let name = copy.sh("hostname").await;
            format!("1\n{name}")
        });
        assert_eq!(copy.sh("echo $GREETING").await, "of the copy");
    }
    assert_eq!(sandbox.sh("echo $GREETING").await, "hello");
    let (mut namespaces, mut interfaces, mut uids) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for each in all {
        let facts = each.host.inspect(each.id.clone()).await.unwrap();
        namespaces.insert(facts.netns);
        interfaces.insert(facts.interface);
        uids.insert(facts.uid);
    }
    assert_eq!((namespaces.len(), uids.len()), (3, 3), "{interfaces:?}");
    // What a running kernel cannot change: whoever takes it for a name of the machine is wrong, and a cold boot draws it anew.
    let cold = scene.create(|request| request.spec.cold = true).await;
    assert_eq!([one.sh(boot).await, two.sh(boot).await], [id.clone(), id.clone()]);
    assert_ne!(cold.sh(boot).await, id);
    // Each token opens its own agent and no other.
    for (at, each) in all.iter().enumerate() {
        for (of, other) in all.iter().enumerate() {
            let guest = each.guest_with(AccessToken::new(other.request.secrets.token.expose()));
            assert_eq!(opens(&guest).await, at == of, "the token of {of} at {at}");
        }
    }
    drop((sandbox, one, two, cold));
    scene.end().await;
}

/// Whether an agent runs something for a client.
async fn opens(guest: &GuestClient) -> bool {
    let run = StartRequest { cmd: "true".into(), ..StartRequest::default() };
    match guest.start(&run).await {
        // A refusal may come as the stream's first word.
        Ok(mut stream) => stream.next().await.is_ok_and(|event| event.is_some()),
        Err(_) => false,
    }
}

/// Connections to the agent that the guest holds for established.
const TO_AGENT: &str = "cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk '$2 ~ /:C33F$/ && $4 == \"01\"' | wc -l";
const IDLE: usize = 6;

async fn idle(sandbox: &Sandbox) -> Vec<GuestStream> {
    let mut streams = Vec::new();
    for _ in 0..IDLE {
        let mut stream = sandbox.host.open_stream(sandbox.id.clone(), AGENT_PORT).await.unwrap();
        // The beginning of a request that never ends.
        stream.write_all(b"GET /health HT").await.unwrap();
        streams.push(stream);
    }
    let held = async || (sandbox.sh(TO_AGENT).await.parse::<usize>().unwrap() >= IDLE).then_some(());
    atoll_testkit::eventually("the agent to have them all", held).await;
    streams
}

/// The connection from outside ends for the program that has it, the one to its neighbour goes on, and the agent has none of before.
async fn dropped(sandbox: &Sandbox) {
    let ended = async || (!sandbox.sh("cat /dev/shm/ended 2>/dev/null || true").await.is_empty()).then_some(());
    atoll_testkit::eventually("the connection from outside to end", ended).await;
    let count: u64 = sandbox.sh("cat /dev/shm/count").await.parse().unwrap();
    let more = async || (sandbox.sh("cat /dev/shm/count").await.parse::<u64>().unwrap() > count).then_some(());
    atoll_testkit::eventually("the neighbours to talk on", more).await;
    let left: usize = sandbox.sh(TO_AGENT).await.parse().unwrap();
    assert!(left < IDLE, "{left} connections of before are left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_from_before_are_dropped_and_those_inside_live_on() {
    let scene = Scene::new().await;
    let mut sandbox = scene.create(|_| {}).await;
    start(&sandbox, TALKER).await;
    let listens = async || sandbox.sh("ls /dev/shm").await.contains("listens").then_some(());
    atoll_testkit::eventually("the program to listen", listens).await;
    let mut far = sandbox.host.open_stream(sandbox.id.clone(), 7000).await.unwrap();
    let mut one = [0];
    atoll_testkit::within("the program to talk", far.read_exact(&mut one)).await.unwrap();
    let held = idle(&sandbox).await;
    sandbox.template("t1").await;
    atoll_testkit::within("the program to talk on", far.read_exact(&mut one)).await.unwrap();
    assert_eq!(sandbox.sh("cat /dev/shm/ended 2>/dev/null || true").await, "", "the sandbox itself keeps them");
    let copy = copy(&scene, &sandbox.request.secrets.token).await;
    dropped(&copy).await;
    sandbox.pause(PauseMode::Memory).await;
    for mut stream in held.into_iter().chain([far]) {
        // An error is an end as well.
        let mut rest = Vec::new();
        let _ = atoll_testkit::within("its end", stream.read_to_end(&mut rest)).await;
    }
    sandbox.resume(PauseMode::Memory).await;
    dropped(&sandbox).await;
    drop((sandbox, copy));
    scene.end().await;
}
