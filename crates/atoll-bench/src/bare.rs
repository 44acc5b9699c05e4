//! A VM without Atoll: what its cost is compared with.
//!
//! How it works: the same kernel, initramfs, base image, empty disk, namespace with TAP, veth and rules, and the same QEMU options, started
//! as root without a jail, a keeper, a journal, a database or an API. Paths stand where the keeper passes descriptors; there is no
//! control channel. The agent is told who it is by the same `/init`.
//!
//! Deliberately absent: anything that a create could leave out.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use atoll_disk::{Cache, Silent, create_cow, ensure_initramfs, ensure_kernel, ensure_template};
use atoll_domain::{InstanceId, Network, SandboxId};
use atoll_guest_client::{
    AGENT_PORT, AccessToken, GuestClient, InitRequest, Limits, ProcessEvent, StartRequest, eagerly,
};
use atoll_net::{NetConfig, NetPlan, Slots};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::sockets::{Sockets, inside};

/// As `atoll create` without options.
pub(crate) const MEMORY_MB: u32 = 512;
const DISK_MB: u32 = 5120;
const BOOT_LIMIT: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(10);
const CMDLINE: &str =
    "console=ttyS0 quiet noreplace-smp cryptomgr.notests=1 random.trust_cpu=on panic=-1 reboot=t pci=off";

/// What every bare VM is made of.
pub(crate) struct Parts {
    pub(crate) cache: Cache,
    kernel: PathBuf,
    initrd: PathBuf,
    base: PathBuf,
    pub(crate) net: NetConfig,
    /// Frequency of the host's TSC where guests are emulated.
    tsc_khz: Option<u64>,
}

impl Parts {
    /// Finds them in the default cache, made by the Atoll that runs.
    pub(crate) fn find(guest: &Path) -> Result<Self> {
        let home = std::env::var_os("HOME");
        let explicit = std::env::var_os("ATOLL_CACHE");
        let cache = Cache::discover(explicit.as_deref().map(Path::new), home.as_deref().map(Path::new), None)?;
        let kernel = ensure_kernel(&cache, &Silent)?;
        let agent = std::fs::read(guest).with_context(|| format!("no guest agent at {}", guest.display()))?;
        let initrd = ensure_initramfs(&cache, &kernel, &agent)?;
        let base = ensure_template(&cache, "base", &Silent)?.path;
        let kvm = atoll_host::cached_kvm_verdict(cache.root()).is_some_and(|(usable, _)| usable);
        let tsc_khz = (!kvm).then(atoll_keeper::tsc::measure_khz);
        let mut random = [0; 3];
        getrandom::fill(&mut random).context("no random bytes")?;
        let net = NetConfig { instance: InstanceId::from_random(random), pool: atoll_net::choose_pool(None)? };
        atoll_net::host_setup(&net)?;
        Ok(Self { cache, kernel: kernel.vmlinux, initrd, base, net, tsc_khz })
    }

    /// Boots one and tells its agent who it is.
    pub(crate) async fn boot(&self) -> Result<BareVm> {
        let mut random = [0; 16];
        getrandom::fill(&mut random).context("no random bytes")?;
        let id = SandboxId::from_random(random);
        let dir = tempfile::tempdir()?;
        let slot = Slots::of_machine().claim(&self.net.instance, &id, self.net.pool)?;
        let plan = atoll_net::plan(&self.net, slot, Network::Internet);
        atoll_net::apply(&plan)?;
        let cow = dir.path().join("cow.raw");
        create_cow(&self.cache, &cow, DISK_MB)?;
        let mut command = self.command(&id, &plan, dir.path(), &cow);
        let child = inside(&plan.netns_path(), || Ok(command.spawn()?))?;
        let agent = GuestClient::new(Arc::new(Sockets::new(plan.netns_path(), AGENT_PORT)), None);
        let mut vm = BareVm { id, child, agent, net: self.net.clone(), plan, _dir: dir };
        answer(&mut vm.child, Sockets::new(vm.plan.netns_path(), AGENT_PORT)).await?;
        (vm.agent, _) = introduce(&vm.agent, &vm.id, None).await?;
        Ok(vm)
    }

    fn command(&self, id: &SandboxId, plan: &NetPlan, dir: &Path, cow: &Path) -> Command {
        let clock = self.tsc_khz.map(|khz| format!(" tsc_early_khz={khz} tsc=reliable")).unwrap_or_default();
        let mut command = self.machine(id, &dir.join("memory.raw").display().to_string(), MEMORY_MB, dir, cow);
        command.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&self.initrd);
        command.arg("-append").arg(format!("{CMDLINE}{clock}"));
        // The plan's slot is in the command only through its namespace.
        let _ = plan;
        command
    }

    /// QEMU and its devices, without what begins.
    pub(crate) fn machine(&self, id: &SandboxId, memory: &str, memory_mb: u32, dir: &Path, cow: &Path) -> Command {
        let (accelerator, cpu, rtc) = match self.tsc_khz {
            Some(_) => ("tcg,thread=multi,tb-size=64", atoll_keeper::qemu::args::TCG_CPU, ""),
            None => ("kvm", "host", "rtc=on,"),
        };
        let mut command = Command::new(atoll_keeper::tree::PROGRAM);
        command.args([
            "-name",
            id.as_str(),
            "-accel",
            accelerator,
            "-cpu",
            cpu,
            "-smp",
            "1",
            "-m",
            &memory_mb.to_string(),
        ]);
        let backend = format!("memory-backend-file,id=mem,mem-path={memory},size={memory_mb}M,share=off,merge=off");
        command.arg("-object").arg(backend);
        command
            .arg("-M")
            .arg(format!("microvm,acpi=on,pit=off,pic=off,{rtc}suppress-vmdesc=on,mem-merge=off,memory-backend=mem"));
        command.args([
            "-bios",
            atoll_keeper::tree::BIOS,
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
        ]);
        command.arg("-serial").arg(format!("file:{}", dir.join("console").display()));
        command.args(["-global", "virtio-mmio.force-legacy=false", "-global", "migration.send-configuration=off"]);
        let drive = "format=raw,auto-read-only=off,file.locking=off";
        command.arg("-drive").arg(format!("if=none,id=base,file={},readonly=on,{drive}", self.base.display()));
        command.args(["-device", "virtio-blk-device,drive=base,serial=base"]);
        command
            .arg("-drive")
            .arg(format!("if=none,id=cow,file={},cache=writeback,discard=unmap,{drive}", cow.display()));
        command.args(["-device", "virtio-blk-device,drive=cow,serial=cow"]);
        command.arg("-netdev").arg(format!("tap,id=net,ifname={},script=no,downscript=no", atoll_net::TAP));
        let mac = atoll_net::GUEST_MAC.map(|byte| format!("{byte:02x}")).join(":");
        command.arg("-device").arg(format!("virtio-net-device,netdev=net,mac={mac}"));
        command.args(["-device", "virtio-rng-device"]);
        command.args(["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        command
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        if let Err(error) = atoll_net::host_teardown(&self.net) {
            eprintln!("the bare VMs' packet filter is left: {error}");
        }
    }
}

/// A running VM without Atoll.
pub(crate) struct BareVm {
    id: SandboxId,
    child: Child,
    /// Its agent, with its token.
    pub(crate) agent: GuestClient,
    net: NetConfig,
    plan: NetPlan,
    _dir: tempfile::TempDir,
}

impl BareVm {
    /// Its VMM.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Streams to another port of it.
    pub(crate) fn sockets(&self, port: u16) -> Sockets {
        Sockets::new(self.plan.netns_path(), port)
    }

    /// Runs a program to its end, as root; answers what it printed.
    pub(crate) async fn exec(agent: &GuestClient, cmd: &str, args: &[&str]) -> Result<Vec<u8>> {
        let request = StartRequest {
            cmd: cmd.into(),
            args: args.iter().map(|word| (*word).to_owned()).collect(),
            user: Some("root".into()),
            timeout: Some(Duration::from_secs(600)),
            ..StartRequest::default()
        };
        let mut process = agent.start(&request).await?;
        let mut printed = Vec::new();
        loop {
            match process.next().await? {
                Some(ProcessEvent::Stdout(bytes)) => printed.extend_from_slice(&bytes),
                Some(ProcessEvent::Ended { exit_code: 0, .. }) => return Ok(printed),
                Some(ProcessEvent::Ended { exit_code, .. }) => bail!("{cmd} ended with {exit_code} in the bare VM"),
                Some(_) => {}
                None => bail!("the stream of {cmd} ended before it"),
            }
        }
    }
}

/// Waits for the agent of a VM.
pub(crate) async fn answer(child: &mut Child, sockets: Sockets) -> Result<()> {
    let deadline = Instant::now() + BOOT_LIMIT;
    let quick = Limits { dial: Duration::from_secs(1), head: Duration::from_secs(5), ..Limits::default() };
    let agent = GuestClient::new(eagerly(Arc::new(sockets)), None).with_limits(quick);
    while agent.health().await.is_err() {
        if let Some(status) = child.try_wait()? {
            bail!("the bare VMM ended: {status}");
        }
        if Instant::now() > deadline {
            bail!("the bare VM does not answer after {} s", BOOT_LIMIT.as_secs());
        }
        tokio::time::sleep(RETRY).await;
    }
    Ok(())
}

/// Tells an agent who it is; answers it with the token that it has from now on, and that token.
pub(crate) async fn introduce(
    agent: &GuestClient,
    id: &SandboxId,
    generation: Option<String>,
) -> Result<(GuestClient, String)> {
    let mut random = [0; 64];
    getrandom::fill(&mut random).context("no random bytes")?;
    let token: String = random[..32].iter().map(|byte| format!("{byte:02x}")).collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let init = InitRequest {
        access_token: Some(token.clone()),
        env_vars: Some(std::collections::BTreeMap::new()),
        timestamp_ns: u64::try_from(now.as_nanos()).ok(),
        default_user: Some("root".into()),
        hostname: Some(id.to_string()),
        entropy: Some(STANDARD.encode(random)),
        generation,
        ..InitRequest::default()
    };
    agent.init(&init).await?;
    Ok((agent.clone().with_token(Some(AccessToken::new(&token))), token))
}

impl Drop for BareVm {
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
