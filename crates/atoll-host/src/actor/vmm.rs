//! Starting a keeper and its VMM, cold or from what is kept, and reaching the guest's agent.
//!
//! How it works: journal and spec are written, the keeper is started and claimed, and takes token and environment into its memory. The
//! agent is dialled eagerly (a lost SYN would otherwise cost a second).
//!
//! Deliberately absent: what a boot and a resume do differently ([`super::boot`], [`super::resuming`]).

use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use atoll_domain::host::{GuestToken, HostError, Isolation, SandboxSecrets, SandboxSpec};
use atoll_domain::{Incarnation, Network, SandboxId};
use atoll_guest_client::{AGENT_PORT, AGENT_PROTOCOL, AccessToken, GuestClient, InitRequest, Limits, eagerly};
use atoll_keeper::cgroup::Cgroups;
use atoll_keeper::client::{Connected, KeeperClient, KeeperProcess, connect};
use atoll_keeper::protocol::{Event, State};
use atoll_keeper::spec::{self, Jail, KeeperSpec, Machine};
use atoll_net::NetPlan;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::watching::Watch;
use super::work::Context;
use crate::Step;
use crate::data_dir::put;
use crate::dial::{PortDial, Sockets};
use crate::error::{failed, from_client, from_keeper, from_net, join_failed};
use crate::generation::EMPTY_BASE;
use crate::journal::{Base, Entry, Journal, Processes, Sources, boot_id, start_time};
use crate::ready::Ready;
use crate::shared::Shared;

/// From the VMM's start to the agent's answer.
const BOOT_LIMIT: Duration = Duration::from_secs(30);
/// The same without KVM: emulation gets as much slower as the machine is busy, and a second try would only add to that.
const EMULATED_BOOT_LIMIT: Duration = Duration::from_secs(90);
/// From the keeper's start to its socket.
pub(super) const KEEPER_LIMIT: Duration = Duration::from_secs(10);
/// For dialling again and again; then the VMM is looked at.
const DIAL_LIMIT: Duration = Duration::from_secs(1);
const HEAD_LIMIT: Duration = Duration::from_secs(5);
/// For a single call to an agent that answered before: on a busy machine it takes its time.
const PATIENCE: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_millis(10);
/// Between two looks at whether the VMM of a guest that is being told something lives.
const LOOK: Duration = Duration::from_millis(250);

/// A running VM, as its actor holds it.
pub(super) struct Alive {
    pub(super) keeper: KeeperClient,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) connection: JoinHandle<()>,
    pub(super) process: KeeperProcess,
    pub(super) sockets: Sockets,
    /// Ends with the reason when keeper or VMM hang.
    pub(super) watch: Watch,
    /// Whether it stands still because the host's disk is full.
    pub(super) halted: bool,
    /// The shared memory that it is mapped from: loaded as long as one of its VMs runs.
    base: Option<Arc<File>>,
}

/// The ways into a running VM, for work that borrows it over a wait.
#[derive(Debug, Clone)]
pub(super) struct Vm {
    pub(super) keeper: KeeperClient,
    pub(super) sockets: Sockets,
}

impl Alive {
    pub(super) fn vm(&self) -> Vm {
        Vm { keeper: self.keeper.clone(), sockets: self.sockets.clone() }
    }

    pub(super) fn new(
        connected: Connected,
        process: KeeperProcess,
        sockets: Sockets,
        data: &Path,
        halted: bool,
    ) -> Self {
        let Connected { client, events, task, .. } = connected;
        let watch = Watch::new(client.clone(), data.to_owned(), halted);
        Self { keeper: client, events, connection: task, process, sockets, watch, halted, base: None }
    }

    pub(super) fn mapped_from(mut self, base: Option<Arc<File>>) -> Self {
        self.base = base;
        self
    }
}

/// What a VM is started with.
pub(super) struct Beginning {
    pub(super) attempt: u8,
    pub(super) incarnation: Incarnation,
    pub(super) sources: Sources,
    pub(super) start: spec::Start,
    /// A write-sealed memory base that others use, too.
    pub(super) shared_base: Option<Arc<File>>,
}

/// Writes journal and spec, starts the keeper, claims it and leaves the secrets in its memory.
pub(super) async fn start(
    context: &Context,
    ready: &Arc<Ready>,
    beginning: Beginning,
    secrets: &SandboxSecrets,
    process: &mut Option<KeeperProcess>,
) -> Result<(Connected, State), HostError> {
    let input = beginning.shared_base.clone();
    let claim = write_spec(context, Arc::clone(ready), beginning).await?;
    context.called_off()?;
    Step::Spawn.before();
    *process = Some(spawn(context, input.as_deref())?);
    Step::Spawn.after();
    context.or_cancelled(claim_keeper(context, process, claim, secrets)).await
}

/// Writes journal and spec; answers the number by which the keeper is claimed.
async fn write_spec(context: &Context, ready: Arc<Ready>, beginning: Beginning) -> Result<u64, HostError> {
    let (shared, spec, dir) = (Arc::clone(&context.shared), context.spec.clone(), context.dir.clone());
    let written = tokio::task::spawn_blocking(move || {
        let Beginning { attempt, incarnation, sources, start, .. } = beginning;
        let place = place(&shared, &spec)?;
        let keeper_spec = keeper_spec(&shared, &spec, incarnation, &dir, &ready, &sources, start, place);
        let platform = crate::platform::platform(&ready.vmm_version, ready.tsc_khz, &keeper_spec);
        let platform = Some(Box::new(platform));
        let write = || {
            Journal::open(&dir)?.write(&Entry::Boot { attempt, sources: Some(sources), platform })?;
            let text = serde_json::to_vec(&keeper_spec)?;
            Step::Spec.before();
            // Its one reader is the keeper that is started next.
            put(&dir.join(spec::FILE), &text, 0o600)?;
            Step::Spec.after();
            shared.data.next_claim()
        };
        write().map_err(|e| failed(&e))
    });
    written.await.map_err(join_failed)?
}

/// What this host gives to a sandbox's guest that is started from `sources`. Nothing is made or claimed for it.
pub(super) fn platform(
    shared: &Shared,
    spec: &SandboxSpec,
    dir: &Path,
    ready: &Ready,
    sources: &Sources,
) -> atoll_domain::snapshot::Platform {
    let place = Place {
        plan: atoll_net::plan(&shared.net, atoll_net::Slot(0), spec.network),
        groups: Cgroups { keeper: Vec::new(), vmm: Vec::new() },
        resolvers: Vec::new(),
    };
    let start = super::boot::cold(sources);
    let spec = keeper_spec(shared, spec, Incarnation::FIRST, dir, ready, sources, start, place);
    crate::platform::platform(&ready.vmm_version, ready.tsc_khz, &spec)
}

/// Where a VM is put on this host.
struct Place {
    plan: NetPlan,
    groups: Cgroups,
    resolvers: Vec<SocketAddr>,
}

/// Makes a place for a sandbox's VM: its slot and its control groups, if they are not there.
fn place(shared: &Shared, spec: &SandboxSpec) -> Result<Place, HostError> {
    let plan = shared.plan(spec).map_err(from_net)?;
    let groups = shared.groups(spec);
    let resolvers = match spec.network {
        Network::Internet => atoll_net::host_resolvers(),
        Network::None => Vec::new(),
    };
    Ok(Place { plan, groups: groups.map_err(from_keeper)?, resolvers })
}

/// What the keeper of a sandbox is told.
#[allow(clippy::too_many_arguments, reason = "a spec is made of all of this, here alone")]
fn keeper_spec(
    shared: &Shared,
    spec: &SandboxSpec,
    incarnation: Incarnation,
    dir: &Path,
    ready: &Ready,
    sources: &Sources,
    start: spec::Start,
    place: Place,
) -> KeeperSpec {
    let Place { plan, groups, resolvers } = place;
    let memory = match &sources.base {
        Base::Empty => spec::Memory::File { path: dir.join(EMPTY_BASE) },
        Base::Own { file, .. } => spec::Memory::File { path: dir.join(file) },
        Base::Object { .. } => spec::Memory::Sealed,
    };
    KeeperSpec {
        version: spec::VERSION,
        sandbox: spec.id.clone(),
        incarnation,
        machine: Machine {
            vcpus: spec.shape.vcpus,
            memory_mb: spec.shape.memory_mb,
            accelerator: ready.accelerator,
            base: sources.image.clone(),
            cow: dir.join("cow.raw"),
            cow_limit: u64::from(spec.shape.disk_mb) << 20,
            memory,
            start,
        },
        network: spec::Network {
            netns: plan.netns_path(),
            void_netns: shared.void_netns.clone(),
            tap: atoll_net::TAP.into(),
            guest_mac: atoll_net::GUEST_MAC.map(|b| format!("{b:02x}")).join(":"),
            gateway: atoll_net::GATEWAY,
            resolvers,
        },
        jail: Jail {
            tree: ready.tree.clone(),
            program: atoll_keeper::tree::PROGRAM.into(),
            uid: plan.uid,
            keeper_cgroups: groups.keeper,
            vmm_cgroups: groups.vmm,
        },
    }
}

fn spawn(context: &Context, input: Option<&File>) -> Result<KeeperProcess, HostError> {
    let mut options = std::fs::OpenOptions::new();
    let log = options.write(true).create(true).truncate(true).mode(0o600).open(context.dir.join("keeper.log"));
    let log = log.map_err(|e| failed(&e))?;
    let input = match input {
        Some(file) => file.try_clone().map_err(|e| failed(&e))?.into(),
        None => Stdio::null(),
    };
    let mut command = Command::new(&context.shared.keeper);
    command.arg("--sandbox").arg(context.spec.id.as_str()).arg("--dir").arg(&context.dir);
    command.env_clear().stdin(input).stdout(Stdio::null()).stderr(log);
    command.spawn().and_then(KeeperProcess::started).map_err(|e| failed(&e))
}

/// Claims a fresh keeper and leaves the secrets in its memory.
async fn claim_keeper(
    context: &Context,
    process: &mut Option<KeeperProcess>,
    claim: u64,
    secrets: &SandboxSecrets,
) -> Result<(Connected, State), HostError> {
    let connected = reach(context, process).await?;
    Step::Claim.before();
    connected.client.claim(claim).await.map_err(from_client)?;
    Step::Claim.after();
    let text = serde_json::to_string(secrets).map_err(|e| failed(&e))?;
    Step::Secrets.before();
    connected.client.put_secrets(text).await.map_err(from_client)?;
    Step::Secrets.after();
    let state = connected.client.state().await.map_err(from_client)?;
    Ok((connected, state))
}

/// Connects to the keeper as soon as its socket is there.
async fn reach(context: &Context, process: &mut Option<KeeperProcess>) -> Result<Connected, HostError> {
    let deadline = Instant::now() + KEEPER_LIMIT;
    loop {
        match connect(&context.dir, context.spec.id.as_str()).await {
            Ok(connected) => return Ok(connected),
            Err(error) if Instant::now() > deadline => return Err(from_client(error)),
            Err(_) => {}
        }
        if process.as_mut().is_some_and(KeeperProcess::has_ended) {
            let log = std::fs::read_to_string(context.dir.join("keeper.log")).unwrap_or_default();
            return Err(HostError::Failed(format!("the keeper ended: {}", log.trim())));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Writes down which processes the sandbox is from now on; [`settle`] makes it lasting.
pub(super) async fn note_processes(context: &Context, state: &State) -> Result<(), HostError> {
    let processes = Processes {
        keeper_pid: state.keeper_pid,
        vmm_pid: state.vmm_pid,
        vmm_start: state.vmm_start,
        keeper_start: start_time(state.keeper_pid).unwrap_or(0),
        boot_id: boot_id(),
        at: crate::clock::now().wall,
        steady: Some(crate::clock::steady()),
    };
    context.journal(Entry::Running(processes)).await
}

/// Makes lasting what was written about the sandbox so far.
pub(super) async fn settle(context: &Context) -> Result<(), HostError> {
    let (shared, dir) = (Arc::clone(&context.shared), context.dir.clone());
    let settled = tokio::task::spawn_blocking(move || Journal::settle(&dir).and_then(|()| shared.objects.sync()));
    settled.await.map_err(join_failed)?.map_err(|e| failed(&e))
}

/// Ends a keeper whose VM did not come up.
pub(super) async fn give_up(process: Option<KeeperProcess>) {
    if let Some(mut process) = process {
        // Its VMM dies with it; the next try, or the release, must find the TAP free.
        process.kill();
        // One that the kernel does not let go is ended with its control group by the release.
        let _ = tokio::time::timeout(KEEPER_LIMIT, process.ended()).await;
    }
}

/// The agent of a running guest, asked with this token.
pub(super) fn agent(sockets: &Sockets, token: Option<&GuestToken>) -> GuestClient {
    client(sockets, token, Limits { dial: PATIENCE, head: PATIENCE, ..Limits::default() })
}

fn client(sockets: &Sockets, token: Option<&GuestToken>, limits: Limits) -> GuestClient {
    let token = token.map(|token| AccessToken::new(token.expose()));
    GuestClient::new(dial(sockets, limits.dial), token).with_limits(limits)
}

fn dial(sockets: &Sockets, limit: Duration) -> Arc<PortDial> {
    Arc::new(PortDial { sockets: sockets.clone(), port: AGENT_PORT, limit })
}

/// Waits until the agent answers, and answers what it speaks; its console goes into the log if it does not in time.
pub(super) async fn answers(
    what: &str,
    ready: &Ready,
    id: &SandboxId,
    sockets: &Sockets,
    keeper: &KeeperClient,
) -> Result<u32, HostError> {
    let protocol = protocol(what, ready.isolation(), id, sockets, keeper).await?;
    understood(protocol).map_err(HostError::Failed)
}

/// The same of an agent that may be newer than this Atoll.
pub(super) async fn protocol(
    what: &str,
    isolation: Isolation,
    id: &SandboxId,
    sockets: &Sockets,
    keeper: &KeeperClient,
) -> Result<u32, HostError> {
    let limits = Limits { dial: DIAL_LIMIT, head: HEAD_LIMIT, ..Limits::default() };
    let agent = &GuestClient::new(eagerly(dial(sockets, limits.dial)), None).with_limits(limits);
    let limit = match isolation {
        Isolation::Hardware => BOOT_LIMIT,
        Isolation::Emulated => EMULATED_BOOT_LIMIT,
    };
    match tokio::time::timeout(limit, dial_until(id, agent, keeper)).await {
        Ok(answered) => answered,
        Err(_) => {
            report_console(id, keeper).await;
            let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
            Err(HostError::Timeout { what: what.into(), limit_ms })
        }
    }
}

/// Dials until the agent answers; ends early when the VMM does.
async fn dial_until(id: &SandboxId, agent: &GuestClient, keeper: &KeeperClient) -> Result<u32, HostError> {
    loop {
        if let Ok(health) = agent.health().await {
            return Ok(health.protocol);
        }
        let state = keeper.state().await.map_err(from_client)?;
        if let Some(status) = state.exited {
            report_console(id, keeper).await;
            return Err(HostError::Failed(format!("the VMM ended while starting ({status}): {}", state.vmm_log)));
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Tells a guest who it is; ends early when the VMM does, whose guest would be waited for in vain.
pub(super) async fn introduce(
    agent: &GuestClient,
    identity: &InitRequest,
    keeper: &KeeperClient,
) -> Result<(), HostError> {
    let ended = async {
        loop {
            tokio::time::sleep(LOOK).await;
            match keeper.state().await.map_err(from_client) {
                Err(error) => return error,
                Ok(state) => {
                    if let Some(status) = state.exited {
                        return HostError::Failed(format!("the VMM ended before its guest knew itself ({status})"));
                    }
                }
            }
        }
    };
    tokio::select! {
        told = agent.init(identity) => told.map_err(|e| failed(&e)),
        why = ended => Err(why),
    }
}

/// Agents live inside snapshots for years, so every older one is understood; a newer Atoll's is not.
pub(super) fn understood(protocol: u32) -> Result<u32, String> {
    if protocol <= AGENT_PROTOCOL {
        return Ok(protocol);
    }
    Err(format!("its agent speaks protocol {protocol}, this Atoll knows {AGENT_PROTOCOL}"))
}

/// A guest that did not come up said why on its console.
async fn report_console(id: &SandboxId, keeper: &KeeperClient) {
    if let Ok((_, bytes)) = keeper.console(0).await {
        let text = String::from_utf8_lossy(&bytes);
        let last: Vec<&str> = text.lines().rev().take(20).collect();
        let last = last.into_iter().rev().collect::<Vec<_>>().join("\n");
        tracing::warn!(sandbox.id = %id, console = %last, "a guest did not come up");
    }
}

/// What a guest is told about itself; a restored one is told in which life it is.
pub(super) fn identity(
    context: &Context,
    secrets: &SandboxSecrets,
    generation: Option<String>,
) -> Result<InitRequest, HostError> {
    let mut entropy = [0; 64];
    getrandom::fill(&mut entropy).map_err(|e| HostError::Failed(format!("no random bytes: {e}")))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(InitRequest {
        access_token: Some(secrets.token.expose().to_owned()),
        env_vars: Some(secrets.envs.clone()),
        timestamp_ns: u64::try_from(now.as_nanos()).ok(),
        default_user: Some(context.spec.default_user.clone()),
        default_workdir: None,
        hostname: Some(context.spec.id.to_string()),
        machine_id: None,
        entropy: Some(STANDARD.encode(entropy)),
        generation,
        output_bytes: Some(context.shared.config.output_kb << 10),
    })
}
