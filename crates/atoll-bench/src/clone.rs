//! A VM that is restored and paused without Atoll: what those are compared with.
//!
//! How it works: the same files, the same QEMU options and the same order as a keeper's: QEMU waits with `-incoming defer`, the diff goes into
//! its memory, the state is loaded, the processors run, the agent is told who it is. A pause is the way back: freeze, stop, state, the
//! pages that differ from the base, all of it synced, then the end of the VM and its network. No jail, no keeper, no journal,
//! no manifest.
//!
//! Deliberately absent: the digest of the state at a restore (its time is reported apart; the diff's is taken as it is put into memory).

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use atoll_disk::copy_disk;
use atoll_domain::{Network, SandboxId};
use atoll_guest_client::{AGENT_PORT, AccessToken, GuestClient, PrepareRequest};
use atoll_keeper::jail::MemoryFiles;
use atoll_keeper::memory::base::seal;
use atoll_keeper::memory::capture::capture;
use atoll_keeper::memory::inject::inject;
use atoll_keeper::memory::{Digest, digest_of};
use atoll_net::{NetConfig, NetPlan, Slots};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use crate::bare::{Parts, answer, introduce};
use crate::sockets::{Sockets, inside};

const LIMIT: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(1);

/// What a VM is restored from.
pub(crate) struct Image {
    /// Write-sealed: many VMs may map it.
    base: Arc<File>,
    memory: u64,
    state: PathBuf,
    diff: Option<(PathBuf, Digest)>,
    disk: PathBuf,
    /// Its agent's token, if it has one.
    token: Option<String>,
    /// Of one that was paused: the VM that is restored works on its disk.
    dir: Option<Arc<TempDir>>,
}

impl Image {
    /// A golden's or a template's object.
    pub(crate) fn of_object(dir: &Path) -> Result<Self> {
        let image = File::open(dir.join("memory.raw")).context("no memory image")?;
        let memory = image.metadata()?.len();
        let (base, state, disk) = (Arc::new(seal(&image)?), dir.join("state"), dir.join("disk.raw"));
        Ok(Self { base, memory, state, diff: None, disk, token: None, dir: None })
    }

    /// How long it takes to read what a restore reads and to hash it, in ms: the device state, and the changed memory if there is any.
    pub(crate) fn verification(&self) -> Result<f64> {
        let begun = Instant::now();
        for path in std::iter::once(&self.state).chain(self.diff.as_ref().map(|(diff, _)| diff)) {
            digest_of(&File::open(path)?)?;
        }
        Ok(begun.elapsed().as_secs_f64() * 1000.0)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if self.dir.is_some() {
            // The directory goes with its last user; what is gone before takes no space meanwhile.
            let _ = std::fs::remove_file(&self.state);
            let _ = self.diff.as_ref().map(|(diff, _)| std::fs::remove_file(diff));
        }
    }
}

/// A VM that was restored.
pub(crate) struct CloneVm {
    id: SandboxId,
    child: Child,
    qmp: Qmp,
    /// Its agent, with its token.
    pub(crate) agent: GuestClient,
    token: String,
    net: NetConfig,
    plan: NetPlan,
    base: Arc<File>,
    memory: u64,
    disk: PathBuf,
    dir: Arc<TempDir>,
}

impl Parts {
    /// Restores one and tells its agent who it is.
    pub(crate) async fn restore(&self, image: &Image) -> Result<CloneVm> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).context("no random bytes")?;
        let id = SandboxId::from_random(random);
        let dir = Arc::new(tempfile::tempdir()?);
        let slot = Slots::of_machine().claim(&self.net.instance, &id, self.net.pool)?;
        let plan = atoll_net::plan(&self.net, slot, Network::Internet);
        atoll_net::apply(&plan)?;
        let disk = match &image.dir {
            Some(_) => image.disk.clone(),
            None => {
                let disk = dir.path().join("cow.raw");
                copy_disk(&image.disk, &disk)?;
                disk
            }
        };
        let state = File::open(&image.state)?;
        let memory = format!("/proc/self/fd/{}", image.base.as_raw_fd());
        for file in [&state, &*image.base] {
            fcntl(file, FcntlArg::F_SETFD(FdFlag::empty()))?;
        }
        let mut command = self.machine(&id, &memory, u32::try_from(image.memory >> 20)?, dir.path(), &disk);
        let socket = dir.path().join("qmp");
        command.args(["-S", "-incoming", "defer", "-qmp"]).arg(format!("unix:{},server=on,wait=off", socket.display()));
        let mut child = inside(&plan.netns_path(), || Ok(command.spawn()?))?;
        let mut qmp = Qmp::connect(&socket, &mut child).await?;
        if let Some((diff, digest)) = &image.diff {
            let (files, diff) = (memory_of(child.id())?, File::open(diff)?);
            // Nothing else runs here meanwhile, and a keeper does it as directly.
            inject(&files, &image.base, image.memory, &diff, *digest)?;
        }
        let events = json!({ "capabilities": [{ "capability": "events", "state": true }] });
        qmp.command("migrate-set-capabilities", events).await?;
        qmp.command("migrate-incoming", json!({ "uri": format!("fd:{}", state.as_raw_fd()) })).await?;
        qmp.loaded().await?;
        qmp.command("cont", json!({})).await?;
        let sockets = Sockets::new(plan.netns_path(), AGENT_PORT);
        answer(&mut child, sockets.clone()).await?;
        let known = GuestClient::new(Arc::new(sockets), image.token.as_deref().map(AccessToken::new));
        let (agent, token) = introduce(&known, &id, Some(format!("{:032x}", u128::from_be_bytes(random)))).await?;
        let (net, base, memory) = (self.net.clone(), Arc::clone(&image.base), image.memory);
        let dir = image.dir.clone().unwrap_or(dir);
        Ok(CloneVm { id, child, qmp, agent, token, net, plan, base, memory, disk, dir })
    }
}

/// The files by which a VMM's memory is reached.
fn memory_of(pid: u32) -> Result<MemoryFiles> {
    let open = |name: &str, write: bool| {
        OpenOptions::new().read(true).write(write).open(format!("/proc/{pid}/{name}")).context("no memory of a VMM")
    };
    Ok(MemoryFiles { mem: open("mem", true)?, pagemap: open("pagemap", false)?, maps: open("maps", false)? })
}

impl CloneVm {
    /// Puts it on the disk and ends it; answers what it is restored from, and the bytes of state and diff.
    pub(crate) async fn pause(mut self) -> Result<(Image, u64)> {
        let prepare = PrepareRequest { sync: false, freeze: true, timeout_ms: 5000 };
        ensure!(self.agent.prepare_snapshot(&prepare).await?.frozen, "user code does not stand still");
        self.qmp.command("stop", json!({})).await?;
        let name = self.token[..12].to_owned();
        let (state, diff) =
            (self.dir.path().join(format!("state-{name}")), self.dir.path().join(format!("diff-{name}")));
        let save = json!({ "filename": state, "live": false });
        self.qmp.command("xen-save-devices-state", save).await?;
        let files = memory_of(self.child.id())?;
        let out = OpenOptions::new().read(true).write(true).create_new(true).open(&diff)?;
        let written = capture(&files, &self.base, self.memory, &out)?;
        out.sync_all()?;
        File::open(&state)?.sync_all()?;
        File::open(self.dir.path())?.sync_all()?;
        let bytes = written.bytes + std::fs::metadata(&state)?.len();
        let image = Image {
            base: Arc::clone(&self.base),
            memory: self.memory,
            state,
            diff: Some((diff, written.digest)),
            disk: self.disk.clone(),
            token: Some(self.token.clone()),
            dir: Some(Arc::clone(&self.dir)),
        };
        drop(self);
        Ok((image, bytes))
    }
}

impl Drop for CloneVm {
    fn drop(&mut self) {
        // Ended by itself meanwhile is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Err(error) = atoll_net::remove(&self.plan) {
            eprintln!("a bare VM's network is left: {error}");
        }
        if let Err(error) = Slots::of_machine().release(&self.net.instance, &self.id) {
            eprintln!("a bare VM's slot is left: {error}");
        }
    }
}

/// QEMU's control channel.
struct Qmp {
    stream: BufReader<UnixStream>,
    events: Vec<Value>,
}

impl Qmp {
    async fn connect(socket: &Path, child: &mut Child) -> Result<Self> {
        let deadline = Instant::now() + LIMIT;
        let stream = loop {
            match UnixStream::connect(socket).await {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > deadline => return Err(error).context("no control channel"),
                Err(_) => {}
            }
            if let Some(status) = child.try_wait()? {
                bail!("the bare VMM ended: {status}");
            }
            tokio::time::sleep(RETRY).await;
        };
        let mut qmp = Self { stream: BufReader::new(stream), events: Vec::new() };
        qmp.line().await?;
        qmp.command("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    async fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        tokio::time::timeout(LIMIT, self.stream.read_line(&mut line)).await.context("QEMU is silent")??;
        serde_json::from_str(&line).context("QEMU said something else than JSON")
    }

    async fn command(&mut self, name: &str, arguments: Value) -> Result<()> {
        let text = format!("{}\n", json!({ "execute": name, "arguments": arguments }));
        self.stream.write_all(text.as_bytes()).await?;
        loop {
            let line = self.line().await?;
            if line.get("return").is_some() {
                return Ok(());
            }
            if line.get("error").is_some() {
                bail!("{name}: {line}");
            }
            self.events.push(line);
        }
    }

    /// Waits until the state is loaded.
    async fn loaded(&mut self) -> Result<()> {
        loop {
            let status = |event: &Value| event["event"] == "MIGRATION" && event["data"]["status"] == "completed";
            if self.events.iter().any(status) {
                return Ok(());
            }
            if let Some(failed) = self.events.iter().find(|event| event["data"]["status"] == "failed") {
                bail!("the bare VMM cannot load the state: {failed}");
            }
            let event = self.line().await?;
            self.events.push(event);
        }
    }
}
