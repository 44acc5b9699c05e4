//! A sandbox's surroundings, made by hand: namespace, TAP, control groups, directory, and the real keeper.
//!
//! How it works: every name carries this process's number and a counter, so that tests run side by side; what was made goes with
//! the value, whatever the test did.
//!
//! Deliberately absent: the host agent.

#![allow(dead_code, reason = "each test program uses its part")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use atoll_domain::{Incarnation, InstanceId, SandboxId};
use atoll_keeper::KeeperSpec;
use atoll_keeper::cgroup::{self, Cgroups, Limits};
use atoll_keeper::client::{Connected, connect};
use atoll_keeper::spec::{self, Accelerator, Jail, Machine, Memory, Network, Start};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Everything around one sandbox.
pub(crate) struct Scene {
    pub(crate) root: tempfile::TempDir,
    pub(crate) sandbox: SandboxId,
    pub(crate) uid: u32,
    instance: InstanceId,
    netns: String,
    void: String,
    groups: Cgroups,
}

fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status().expect("iproute2 is installed");
    assert!(status.success(), "ip {words}");
}

impl Scene {
    pub(crate) fn new(memory_mb: u32) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let pid = std::process::id();
        let instance = InstanceId::from_random([pid.to_le_bytes()[1], pid.to_le_bytes()[0], number.to_le_bytes()[0]]);
        let sandbox: SandboxId = format!("sb{pid}n{number}").parse().unwrap();
        let (netns, void) = (format!("ak-{pid}-{number}"), format!("ak-{pid}-{number}v"));
        for name in [&netns, &void] {
            ip(&format!("netns add {name}"));
        }
        ip(&format!("-n {netns} link set lo up"));
        ip(&format!("-n {netns} tuntap add tap0 mode tap"));
        ip(&format!("-n {netns} link set tap0 address 02:fc:00:00:00:01"));
        ip(&format!("-n {netns} addr add 172.16.0.1/30 dev tap0"));
        ip(&format!("-n {netns} link set tap0 up"));
        ip(&format!("-n {netns} neigh add 172.16.0.2 lladdr 02:fc:00:00:00:02 dev tap0 nud permanent"));
        let groups = cgroup::prepare(&instance, &sandbox, &Limits { vcpus: 1, memory_mb, disk: None }).unwrap();
        let root = tempfile::Builder::new().prefix("atoll-keeper-").tempdir().unwrap();
        fs::create_dir(root.path().join("sandbox")).unwrap();
        let uid = 3_000_000_000 + pid * 16 + number % 16;
        Self { root, sandbox, uid, instance, netns, void, groups }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.path("sandbox")
    }

    /// A spec with a base image and a disk of this scene.
    pub(crate) fn spec(&self, tree: PathBuf, memory_mb: u32, memory: Memory, start: Start) -> KeeperSpec {
        KeeperSpec {
            version: spec::VERSION,
            sandbox: self.sandbox.clone(),
            incarnation: Incarnation(1),
            machine: Machine {
                vcpus: 1,
                memory_mb,
                accelerator: Accelerator::Tcg { tsc_khz: atoll_keeper::tsc::measure_khz() },
                base: self.path("base.raw"),
                cow: self.path("cow.raw"),
                cow_limit: 0,
                memory,
                start,
            },
            network: Network {
                netns: format!("/run/netns/{}", self.netns).into(),
                void_netns: format!("/run/netns/{}", self.void).into(),
                tap: "tap0".into(),
                guest_mac: "02:fc:00:00:00:02".into(),
                gateway: [172, 16, 0, 1].into(),
                resolvers: Vec::new(),
            },
            jail: Jail {
                tree,
                program: atoll_keeper::tree::PROGRAM.into(),
                uid: self.uid,
                keeper_cgroups: self.groups.keeper.clone(),
                vmm_cgroups: self.groups.vmm.clone(),
            },
        }
    }

    /// Starts the real keeper; a shared memory base goes along as its standard input.
    pub(crate) fn start(&self, spec: &KeeperSpec, memory: Option<File>) -> Child {
        fs::write(self.dir().join(spec::FILE), serde_json::to_vec(spec).unwrap()).unwrap();
        let log = File::create(self.path("keeper.log")).unwrap();
        let input = memory.map_or_else(Stdio::null, Stdio::from);
        Command::new(keeper_program())
            .args(["--sandbox", self.sandbox.as_str(), "--dir"])
            .arg(self.dir())
            .env_clear()
            .stdin(input)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// Connects as soon as the keeper answers, and claims it.
    pub(crate) async fn claim(&self, keeper: &mut Child, number: u64) -> Connected {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(connected) = connect(&self.dir(), self.sandbox.as_str()).await {
                connected.client.claim(number).await.unwrap();
                return connected;
            }
            let log = || fs::read_to_string(self.path("keeper.log")).unwrap_or_default();
            assert_eq!(keeper.try_wait().unwrap(), None, "the keeper ended: {}", log());
            assert!(Instant::now() < deadline, "the keeper does not answer: {}", log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The processes of the sandbox's uid.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| uid_of(*pid) == Some(self.uid)).collect()
    }

    /// Waits until no process of the sandbox's uid is left.
    pub(crate) fn wait_until_empty(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.processes().is_empty() {
            assert!(
                Instant::now() < deadline,
                "still there: {:?}",
                self.processes().iter().map(|pid| about(*pid)).collect::<Vec<_>>()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// What a process is and does, for who wonders why it is there.
fn about(pid: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let told = |line: &&str| {
        ["Name:", "State:", "Pid:", "PPid:", "SigPnd:", "ShdPnd:"].iter().any(|word| line.starts_with(word))
    };
    status.lines().filter(told).collect::<Vec<_>>().join(", ")
}

/// The uid of a process that is no zombie.
fn uid_of(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let word = |name: &str| status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next();
    if word("State:") == Some("Z") { None } else { word("Uid:")?.parse().ok() }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // Whatever the test left is killed with its groups.
        if let Err(error) = cgroup::remove(&self.instance, &self.sandbox) {
            println!("{error}");
        }
        cgroup::remove_instance(&self.instance);
        for name in [&self.netns, &self.void] {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// The keeper: the static one that is shipped, when the tests are built by `cargo xtask test`.
fn keeper_program() -> &'static str {
    option_env!("ATOLL_EMBED_KEEPER").unwrap_or(env!("CARGO_BIN_EXE_atoll-keeper"))
}

/// The guest agent, static.
pub(crate) fn guest_program() -> PathBuf {
    let told = std::env::var_os("ATOLL_EMBED_GUEST").or_else(|| option_env!("ATOLL_EMBED_GUEST").map(Into::into));
    told.expect("`cargo xtask test` builds the guest agent and names it in ATOLL_EMBED_GUEST").into()
}

/// A copy of a directory tree.
pub(crate) fn copy_tree(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

/// The machine's cache of images and kernels.
pub(crate) fn cache() -> atoll_disk::Cache {
    let home = std::env::var_os("HOME");
    let explicit = std::env::var_os("ATOLL_CACHE");
    atoll_disk::Cache::discover(explicit.as_deref().map(Path::new), home.as_deref().map(Path::new), None).unwrap()
}
