//! Starting the keeper and its VMM, and waiting for the guest agent.
//!
//! How it works: boots pass a semaphore as wide as the host has cores, because an emulated boot is all computing; the deadline begins
//! when the VMM has started. The keeper is claimed before anything is asked of it. The agent is dialled again and again with
//! short limits (a lost SYN would otherwise cost a second), then told who it is.
//!
//! Deliberately absent: trying again; `atoll_domain::actor` decides that.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use atoll_domain::host::{HostError, Isolation, SandboxSecrets, SandboxSpec};
use atoll_domain::{Incarnation, Network, SandboxId};
use atoll_guest_client::{AGENT_PORT, GuestClient, InitRequest, Limits};
use atoll_keeper::client::{Connected, KeeperClient, KeeperProcess, connect};
use atoll_keeper::protocol::{Event, State};
use atoll_keeper::spec::{self, Jail, KeeperSpec, Machine};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::watching::Watch;
use super::work::{Context, Finished};
use crate::Step;
use crate::agent::Shared;
use crate::data_dir::replace;
use crate::dial::{PortDial, Sockets};
use crate::error::{failed, from_client, from_keeper, from_net, join_failed};
use crate::journal::{Entry, Journal, Processes, boot_id, start_time};
use crate::ready::Ready;

/// From the VMM's start to the agent's answer.
const BOOT_LIMIT: Duration = Duration::from_secs(30);
/// The same without KVM: emulation gets as much slower as the machine is busy, and a second try would only add to that.
const EMULATED_BOOT_LIMIT: Duration = Duration::from_secs(90);
/// From the keeper's start to its socket.
const KEEPER_LIMIT: Duration = Duration::from_secs(10);
const DIAL_LIMIT: Duration = Duration::from_millis(250);
const RETRY: Duration = Duration::from_millis(10);

/// A running VM, as its actor holds it.
pub(super) struct Alive {
    pub(super) keeper: KeeperClient,
    pub(super) events: mpsc::Receiver<Event>,
    pub(super) connection: JoinHandle<()>,
    pub(super) process: KeeperProcess,
    pub(super) sockets: Sockets,
    /// Ends with the reason when keeper or VMM hang.
    pub(super) watch: Watch,
}

pub(super) async fn run(context: Context, attempt: u8) -> Finished {
    let mut process = None;
    let booted = boot(&context, attempt, &mut process).await;
    if booted.is_err()
        && let Some(mut process) = process
    {
        // Its VMM dies with it; the next try, or the release, must find the TAP free.
        process.kill();
        // One that the kernel does not let go is ended with its control group by the release.
        let _ = tokio::time::timeout(KEEPER_LIMIT, process.ended()).await;
    }
    Finished::Booted(booted)
}

async fn boot(context: &Context, attempt: u8, process: &mut Option<KeeperProcess>) -> Result<Box<Alive>, HostError> {
    let shared = &context.shared;
    let ready = context.or_cancelled(shared.ready()).await?;
    let started = Instant::now();
    let permit = async {
        let permit = shared.boots.acquire().await;
        permit.map_err(|_| HostError::Unavailable("the host agent is stopping".into()))
    };
    let _permit = context.or_cancelled(permit).await?;
    context.phase("queue", started, |_| {});
    let started = Instant::now();
    let claim = write_spec(context, attempt, Arc::clone(&ready)).await?;
    context.called_off()?;
    let secrets = context.secrets.clone().ok_or_else(|| HostError::Failed("the secrets are not there".into()))?;
    Step::Spawn.before();
    *process = Some(start(context)?);
    Step::Spawn.after();
    let (connected, state) = context.or_cancelled(claim_keeper(context, process, claim, &secrets)).await?;
    note_processes(context, &state).await?;
    context.phase("keeper", started, |facts| {
        facts.keeper_pid = Some(state.keeper_pid);
        facts.vmm_pid = Some(state.vmm_pid);
    });
    let started = Instant::now();
    let sockets = Sockets::new(connected.client.clone());
    let limit = match ready.isolation() {
        Isolation::Hardware => BOOT_LIMIT,
        Isolation::Emulated => EMULATED_BOOT_LIMIT,
    };
    let agent = context.or_cancelled(within(limit, attempt, context, &sockets, &connected.client)).await?;
    context.phase("boot", started, |_| {});
    let started = Instant::now();
    Step::Init.before();
    let identity = identity(context, &secrets)?;
    context.or_cancelled(async { agent.init(&identity).await.map_err(|e| failed(&e)) }).await?;
    Step::Init.after();
    context.phase("init", started, |_| {});
    let process = process.take().ok_or_else(|| HostError::Failed("the keeper is not there".into()))?;
    Ok(Box::new(Alive::new(connected, process, sockets, shared.data.root(), false)))
}

/// Writes journal and spec; answers the number by which the keeper is claimed.
async fn write_spec(context: &Context, attempt: u8, ready: Arc<Ready>) -> Result<u64, HostError> {
    let (shared, spec) = (Arc::clone(&context.shared), context.spec.clone());
    let (dir, incarnation) = (context.dir.clone(), context.call.incarnation);
    let written = tokio::task::spawn_blocking(move || {
        let keeper_spec = make_spec(&shared, &spec, incarnation, &dir, &ready)?;
        let write = || {
            Journal::open(&dir)?.write(&Entry::Boot { attempt })?;
            let text = serde_json::to_vec(&keeper_spec)?;
            Step::Spec.before();
            replace(&dir.join(spec::FILE), &text, 0o600)?;
            Step::Spec.after();
            shared.data.next_claim()
        };
        write().map_err(|e| failed(&e))
    });
    written.await.map_err(join_failed)?
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

/// The agent, once it answers; its console in the log if it does not in time.
async fn within(
    limit: Duration,
    attempt: u8,
    context: &Context,
    sockets: &Sockets,
    keeper: &KeeperClient,
) -> Result<GuestClient, HostError> {
    match tokio::time::timeout(limit, answer(context, sockets, keeper)).await {
        Ok(agent) => agent,
        Err(_) => {
            report_console(&context.spec.id, keeper).await;
            let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
            Err(HostError::Timeout { what: format!("boot, try {attempt},"), limit_ms })
        }
    }
}

impl Alive {
    pub(super) fn new(
        connected: Connected,
        process: KeeperProcess,
        sockets: Sockets,
        data: &Path,
        halted: bool,
    ) -> Self {
        let Connected { client, events, task, .. } = connected;
        let watch = Watch::new(client.clone(), data.to_owned(), halted);
        Self { keeper: client, events, connection: task, process, sockets, watch }
    }
}

fn make_spec(
    shared: &Shared,
    spec: &SandboxSpec,
    incarnation: Incarnation,
    dir: &Path,
    ready: &Ready,
) -> Result<KeeperSpec, HostError> {
    let plan = shared.plan(spec).map_err(from_net)?;
    let groups = atoll_keeper::cgroup::prepare(&shared.net.instance, &spec.id, spec.shape.vcpus, spec.shape.memory_mb);
    let groups = groups.map_err(from_keeper)?;
    let resolvers = match spec.network {
        Network::Internet => atoll_net::host_resolvers(),
        Network::None => Vec::new(),
    };
    Ok(KeeperSpec {
        version: spec::VERSION,
        sandbox: spec.id.clone(),
        incarnation,
        machine: Machine {
            vcpus: spec.shape.vcpus,
            memory_mb: spec.shape.memory_mb,
            accelerator: ready.accelerator,
            base: ready.image.path.clone(),
            cow: dir.join("cow.raw"),
            cow_limit: 0,
            memory: spec::Memory::File { path: dir.join("memory.raw") },
            start: spec::Start::Cold {
                kernel: ready.kernel.clone(),
                initrd: ready.initrd.clone(),
                cmdline: String::new(),
            },
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
    })
}

fn start(context: &Context) -> Result<KeeperProcess, HostError> {
    let mut options = std::fs::OpenOptions::new();
    let log = options.write(true).create(true).truncate(true).mode(0o600).open(context.dir.join("keeper.log"));
    let log = log.map_err(|e| failed(&e))?;
    let mut command = Command::new(&context.shared.keeper);
    command.arg("--sandbox").arg(context.spec.id.as_str()).arg("--dir").arg(&context.dir);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().and_then(KeeperProcess::started).map_err(|e| failed(&e))
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

async fn note_processes(context: &Context, state: &State) -> Result<(), HostError> {
    let processes = Processes {
        keeper_pid: state.keeper_pid,
        vmm_pid: state.vmm_pid,
        vmm_start: state.vmm_start,
        keeper_start: start_time(state.keeper_pid).unwrap_or(0),
        boot_id: boot_id(),
    };
    let dir = context.dir.clone();
    let written = tokio::task::spawn_blocking(move || Journal::open(&dir)?.write(&Entry::Running(processes)));
    written.await.map_err(join_failed)?.map_err(|e| failed(&e))
}

/// Dials until the agent answers; ends early when the VMM does.
async fn answer(context: &Context, sockets: &Sockets, keeper: &KeeperClient) -> Result<GuestClient, HostError> {
    let dial = PortDial { sockets: sockets.clone(), port: AGENT_PORT, limit: DIAL_LIMIT };
    let limits = Limits { dial: DIAL_LIMIT, head: Duration::from_secs(5), ..Limits::default() };
    let agent = GuestClient::new(Arc::new(dial), None).with_limits(limits);
    let mut tries = 0_u32;
    loop {
        if agent.health().await.is_ok() {
            return Ok(agent);
        }
        tries += 1;
        if tries.is_multiple_of(20) {
            let state = keeper.state().await.map_err(from_client)?;
            if let Some(status) = state.exited {
                report_console(&context.spec.id, keeper).await;
                return Err(HostError::Failed(format!("the VMM ended while booting ({status}): {}", state.vmm_log)));
            }
        }
        tokio::time::sleep(RETRY).await;
    }
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

/// What a fresh guest is told about itself.
fn identity(context: &Context, secrets: &SandboxSecrets) -> Result<InitRequest, HostError> {
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
        ..InitRequest::default()
    })
}
