//! The attacker: each act, tried and reported.
//!
//! How it works: `inside` runs in QEMU's place with QEMU's arguments and reports on the console's descriptor; `outside` runs as
//! root and reports on standard output. Acts are the same code; paths and numbers come from a plan.
//!
//! Deliberately absent: judgement, which is the test's.

mod confinement;
pub(crate) mod files;
mod processes;
mod sockets;

use std::io::Write as _;
use std::os::fd::{FromRawFd as _, RawFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

/// Where the plan lies in the tree.
pub(crate) const PLAN: &str = "/plan.json";
/// The file in the tree that says that the report is read.
pub(crate) const FLOOD: &str = "/flood";
/// What is looked at in the jail alone.
pub(crate) const STRAYS: &str = "hold stray descriptors";
/// Behind the last act.
pub(crate) const END: &str = "END OF REPORT";

/// What is attacked.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Everything that may be harmed lies in here.
    pub(crate) root: PathBuf,
    pub(crate) keeper: u32,
    pub(crate) other: PathBuf,
    pub(crate) database: PathBuf,
    pub(crate) admin: PathBuf,
    pub(crate) socket: PathBuf,
    pub(crate) abstract_name: String,
    pub(crate) port: u16,
    pub(crate) base: PathBuf,
    pub(crate) memory: PathBuf,
    pub(crate) tree: PathBuf,
    pub(crate) scratch: PathBuf,
    pub(crate) memory_bytes: u64,
}

/// What came of an act.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) act: String,
    pub(crate) did: bool,
    pub(crate) how: String,
}

/// Descriptors that QEMU would work on, by what they are.
#[derive(Debug, Default)]
struct Inherited {
    qmp: RawFd,
    console: RawFd,
    base: RawFd,
    cow: RawFd,
    memory: RawFd,
}

/// `Ok`: it worked, and how. `Err`: why not.
type Outcome = Result<String, String>;

/// The last error's name.
fn errno() -> String {
    format!("{:?}", Errno::last())
}

/// The outcome of a system call.
fn outcome(result: i64, what: &str) -> Outcome {
    if result < 0 { Err(format!("{what}: {}", errno())) } else { Ok(what.to_owned()) }
}

/// The first of several ways that works, or why none did.
fn any(ways: impl IntoIterator<Item = Outcome>) -> Outcome {
    let mut refused = Vec::new();
    for way in ways {
        match way {
            Ok(how) => return Ok(how),
            Err(why) => refused.push(why),
        }
    }
    refused.sort();
    refused.dedup();
    Err(refused.join(", "))
}

fn acts(plan: &Plan, own: Option<&Inherited>, mut report: impl FnMut(Done)) {
    let mut act = |name: &str, outcome: Outcome| {
        let (did, how) = match outcome {
            Ok(how) => (true, how),
            Err(why) => (false, why),
        };
        report(Done { act: name.into(), did, how });
    };
    act("read another sandbox's directory", files::read(&plan.other));
    act("read the database", files::read(&plan.database));
    act("read admin.json", files::read(&plan.admin));
    act("write the shared base image", files::write(plan, &plan.base, own.map(|own| own.base)));
    act("write the shared memory base", files::write(plan, &plan.memory, own.map(|own| own.memory)));
    act("write the shared tree", files::write_tree(plan, own.is_some()));
    act("fill the disk", files::fill(plan, own.map(|own| own.cow)));
    act("see other processes", processes::see(plan.keeper));
    act("ptrace the keeper", processes::trace(plan.keeper));
    act("read the keeper's memory", processes::read_memory(plan.keeper));
    act("signal the keeper", processes::signal(plan.keeper));
    act("freeze the keeper", processes::freeze(plan.keeper, own.is_some()));
    act("outlive the keeper", processes::outlive());
    act("fork without end", processes::fork_bomb());
    act("dump core", processes::dump_core(&plan.scratch));
    act("connect to the host's loopback", sockets::loopback(plan.port));
    act("connect to an abstract socket", sockets::abstract_socket(&plan.abstract_name));
    act("connect to Atoll's socket", sockets::path_socket(&plan.socket));
    act("open a packet socket", sockets::open(libc::AF_PACKET, libc::SOCK_RAW));
    act("open a netlink socket", sockets::open(libc::AF_NETLINK, libc::SOCK_RAW));
    act("gain a capability", confinement::capability());
    act("become root", confinement::root());
    act("io_uring", confinement::io_uring());
    act("bpf", confinement::bpf());
    act("perf", confinement::perf());
    act("userfaultfd", confinement::userfaultfd());
    act("keyring", confinement::keyring());
    act("make a device", confinement::device(&plan.scratch));
    act("unshare", confinement::unshare());
    act("setns", confinement::setns());
    act("mount", confinement::mount(&plan.scratch));
    act("clone with new namespaces", confinement::clone_namespaces());
    act("clone3", confinement::clone3());
}

/// Runs in QEMU's place, and never ends by itself.
pub(crate) fn inside(words: &[String]) -> ! {
    let own = inherited(words);
    // SAFETY: the number is the console's, which nothing else here uses.
    let mut console = unsafe { std::fs::File::from_raw_fd(own.console) };
    let plan = loop {
        match std::fs::read(PLAN) {
            Ok(text) => break serde_json::from_slice(&text).unwrap(),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    let mut report = |done: Done| writeln!(console, "{}", serde_json::to_string(&done).unwrap()).unwrap();
    let strays = strays(&own);
    report(Done { act: STRAYS.into(), did: !strays.is_empty(), how: strays });
    acts(&plan, Some(&own), &mut report);
    processes::leave_a_child();
    writeln!(console, "{END}").unwrap();
    // The console keeps its last bytes alone: the report is read first.
    while !std::path::Path::new(FLOOD).exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    flood(&own, &mut console)
}

/// Runs as root without a jail.
pub(crate) fn outside(plan: &str) {
    let plan: Plan = serde_json::from_slice(&std::fs::read(plan).unwrap()).unwrap();
    acts(&plan, None, |done| println!("{}", serde_json::to_string(&done).unwrap()));
}

fn inherited(words: &[String]) -> Inherited {
    let number = |beginning: &str, end: &str| -> RawFd {
        let found = words.iter().find_map(|word| word.strip_prefix(beginning)?.strip_suffix(end)?.parse().ok());
        found.unwrap_or(-1)
    };
    let memory = words.iter().find_map(|word| word.split_once("/proc/self/fd/")?.1.split(',').next()?.parse().ok());
    Inherited {
        qmp: number("socket,id=qmp,fd=", ""),
        console: number("socket,id=console,fd=", ""),
        base: number("fd=", ",set=1"),
        cow: number("fd=", ",set=2"),
        memory: memory.unwrap_or(-1),
    }
}

/// Descriptors of directories, or more of them than QEMU is given.
fn strays(own: &Inherited) -> String {
    let mut found = Vec::new();
    for fd in 3..256 {
        // SAFETY: an all-zero stat is valid; fstat fills it.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: the struct lives across the call.
        if unsafe { libc::fstat(fd, &raw mut stat) } != 0 {
            continue;
        }
        let known = [own.qmp, own.console, own.base, own.cow, own.memory].contains(&fd);
        // The TAP is the one character device.
        let tap = stat.st_mode & libc::S_IFMT == libc::S_IFCHR;
        if !known && !tap {
            let target = std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
            found.push(format!("{fd}: {} mode {:o}", target.display(), stat.st_mode));
        }
    }
    found.join(", ")
}

/// Writes without end into everything that the keeper reads, and reads nothing.
fn flood(own: &Inherited, console: &mut std::fs::File) -> ! {
    for fd in [own.qmp, own.console, 2] {
        // SAFETY: changes flags of a descriptor of ours.
        unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) };
    }
    let greetings = b"{\"QMP\": {}}\n{\"event\": \"STOP\"}\n{\"event\": \"RESUME\"}\n".repeat(100);
    let garbage = vec![b'x'; 64 * 1024];
    loop {
        // SAFETY: the buffers live across the calls.
        unsafe {
            libc::write(own.qmp, greetings.as_ptr().cast(), greetings.len());
            libc::write(own.qmp, garbage.as_ptr().cast(), garbage.len());
            libc::write(2, garbage.as_ptr().cast(), garbage.len());
        }
        // Full: then the keeper has enough to read.
        let _ = console.write(&garbage);
    }
}
