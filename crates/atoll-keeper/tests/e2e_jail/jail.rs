//! The attacker inside the jail and outside of it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use atoll_keeper::client::KeeperClient;
use atoll_keeper::memory::base::seal;
use atoll_keeper::spec::{Memory, Start};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::attack::files::FIRMWARE;
use crate::attack::{Done, END, FLOOD, PLAN, Plan, STRAYS};
use crate::scene::{self, PATIENCE, Scene};

const MEMORY_MB: u32 = 128;
/// Private memory of a keeper, at most.
const MOST_PRIVATE: u64 = 1536 * 1024;
/// What the filter must answer, whatever else would stop the act.
const BY_FILTER: &[(&str, &str)] = &[
    ("unshare", "EPERM"),
    ("setns", "EPERM"),
    ("mount", "EPERM"),
    ("clone with new namespaces", "EPERM"),
    ("clone3", "ENOSYS"),
    ("io_uring", "EPERM"),
    ("bpf", "EPERM"),
    ("perf", "EPERM"),
];

pub(crate) fn attacker_fails_inside_and_succeeds_outside() {
    let scene = Scene::new(MEMORY_MB);
    let tree = scene.path("tree");
    scene::copy_tree(&atoll_keeper::tree::ensure(scene::cache().root()).unwrap(), &tree);
    replace_qemu(&tree);
    for name in ["base.raw", "cow.raw", "kernel", "initrd", "memory.flat"] {
        let file = File::create(scene.path(name)).unwrap();
        file.set_len(if name == "memory.flat" { u64::from(MEMORY_MB) << 20 } else { 1 << 20 }).unwrap();
    }
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let abstract_name = format!("atoll-jail-{}", std::process::id());
    let _abstract =
        UnixListener::bind_addr(&SocketAddr::from_abstract_name(abstract_name.as_bytes()).unwrap()).unwrap();
    fs::create_dir(scene.path("other")).unwrap();
    fs::create_dir(scene.path("scratch")).unwrap();
    for name in ["other/spec.json", "atoll.db", "admin.json"] {
        fs::write(scene.path(name), b"secret").unwrap();
    }
    let _served = UnixListener::bind(scene.path("atoll.sock")).unwrap();
    let start = Start::Cold { kernel: scene.path("kernel"), initrd: scene.path("initrd"), cmdline: String::new() };
    let spec = scene.spec(tree.clone(), MEMORY_MB, Memory::Sealed, start);
    let shared = seal(&File::open(scene.path("memory.flat")).unwrap()).unwrap();
    let mut keeper = scene.start(&spec, Some(shared));
    let plan = Plan {
        root: scene.root.path().into(),
        keeper: keeper.id(),
        other: scene.path("other/spec.json"),
        database: scene.path("atoll.db"),
        admin: scene.path("admin.json"),
        socket: scene.path("atoll.sock"),
        abstract_name,
        port: tcp.local_addr().unwrap().port(),
        base: scene.path("base.raw"),
        memory: scene.path("memory.flat"),
        tree: tree.join(FIRMWARE.trim_start_matches('/')),
        scratch: scene.path("scratch"),
        memory_bytes: u64::from(MEMORY_MB) << 20,
    };
    // The attacker waits for its plan, which cannot be known before the keeper runs.
    let text = serde_json::to_vec(&plan).unwrap();
    fs::write(scene.path("plan"), &text).unwrap();
    fs::rename(scene.path("plan"), tree.join(PLAN.trim_start_matches('/'))).unwrap();
    fs::write(scene.path("plan"), &text).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let connected = scene.claim(&mut keeper, 1).await;
        let inside = inside(&connected.client).await;
        let outside = outside(&scene);
        compare(&inside, &outside);
        private_memory(keeper.id());
        fs::write(tree.join(FLOOD.trim_start_matches('/')), b"").unwrap();
        flooded(&connected.client, keeper.id()).await;
        let vmm = connected.client.state().await.unwrap().vmm_pid;
        kill(Pid::from_raw(i32::try_from(vmm).unwrap()), Signal::SIGSTOP).unwrap();
    });
    assert!(scene.processes().len() > 2, "keeper, attacker and the child that it left");
    keeper.kill().unwrap();
    keeper.wait().unwrap();
    scene.wait_until_empty();
}

/// Puts this program where QEMU is, with the libraries that it needs.
fn replace_qemu(tree: &std::path::Path) {
    let own = std::env::current_exe().unwrap();
    let program = tree.join(atoll_keeper::tree::PROGRAM.trim_start_matches('/'));
    fs::copy(&own, &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let listed = Command::new("ldd").arg(&own).output().unwrap();
    let text = String::from_utf8(listed.stdout).unwrap();
    for library in text.split_whitespace().filter(|word| word.starts_with('/')) {
        let place = tree.join(library.trim_start_matches('/'));
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::copy(library, &place).unwrap();
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

type Acts = BTreeMap<String, Done>;

fn read(report: &str) -> Acts {
    let lines = report.lines().filter(|line| line.starts_with('{'));
    let done = lines.map(|line| serde_json::from_str::<Done>(line).unwrap());
    done.map(|done| (done.act.clone(), done)).collect()
}

/// The attacker's report, as its console told it.
async fn inside(keeper: &KeeperClient) -> Acts {
    let (deadline, mut report) = (Instant::now() + PATIENCE, Vec::new());
    loop {
        let (_, bytes) = keeper.console(report.len() as u64).await.unwrap();
        report.extend(bytes);
        let text = String::from_utf8_lossy(&report);
        if let Some((acts, _)) = text.split_once(END) {
            return read(acts);
        }
        let state = keeper.state().await.unwrap();
        assert_eq!(state.exited, None, "{text}\n{}", state.vmm_log);
        assert!(Instant::now() < deadline, "no report: {text}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The same program as root.
fn outside(scene: &Scene) -> Acts {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("--attack").arg(scene.path("plan")).stdin(Stdio::null());
    let output = command.output().unwrap();
    read(&String::from_utf8(output.stdout).unwrap())
}

fn compare(inside: &Acts, outside: &Acts) {
    assert!(inside.len() > 25, "{} acts were reported", inside.len());
    let held = &inside[STRAYS];
    assert!(!held.did, "{STRAYS}: {}", held.how);
    let acts = || inside.iter().filter(|(act, _)| *act != STRAYS);
    assert_eq!(acts().map(|(act, _)| act).collect::<Vec<_>>(), outside.keys().collect::<Vec<_>>());
    let mut broken = Vec::new();
    let mut granted = 0;
    for (act, within) in acts() {
        let without = &outside[act];
        let (jail, root) = (if within.did { "DONE" } else { "no" }, if without.did { "done" } else { "no" });
        println!("{act:34} root: {root} ({}); in the jail: {jail} ({})", without.how, within.how);
        if within.did {
            broken.push(act);
        }
        granted += usize::from(without.did);
        if !without.did {
            println!("not granted to root by this machine: {act}");
        }
    }
    assert!(broken.is_empty(), "the jail let through: {broken:?}");
    for (act, errno) in BY_FILTER {
        assert!(inside[*act].how.contains(errno), "{act}: {}", inside[*act].how);
    }
    println!("{} acts tried, {granted} of them granted to root outside, 0 in the jail", outside.len());
    // What a container or a hardened kernel withholds are the exotic calls; the rest any root has.
    assert!(granted + 6 >= outside.len(), "outside the jail only {granted} of {} acts succeed", outside.len());
}

/// The attacker now floods every channel; the keeper answers and stays small.
async fn flooded(client: &KeeperClient, keeper: u32) {
    let mut slowest = Duration::ZERO;
    for _ in 0..50 {
        let asked = Instant::now();
        let state = client.state().await.unwrap();
        slowest = slowest.max(asked.elapsed());
        assert_eq!(state.exited, None);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    println!("flooded: slowest state {slowest:?}");
    private_memory(keeper);
    let status = fs::read_to_string(format!("/proc/{keeper}/status")).unwrap();
    assert!(!status.contains("State:\tT"), "the keeper is frozen");
}

/// What the keeper has for itself alone. Clean pages are its program, which all keepers of a machine share.
fn private_memory(keeper: u32) {
    let rollup = fs::read_to_string(format!("/proc/{keeper}/smaps_rollup")).unwrap();
    let sum = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
        line.unwrap().parse::<u64>().unwrap() * 1024
    };
    let (dirty, clean) = (sum("Private_Dirty:"), sum("Private_Clean:"));
    println!("the keeper's private memory: {dirty} bytes, and {clean} clean");
    // What is not shipped is larger for reasons of its own.
    let shipped = option_env!("ATOLL_EMBED_KEEPER").is_some();
    assert!(!shipped || dirty <= MOST_PRIVATE, "{dirty} bytes of private memory");
}
