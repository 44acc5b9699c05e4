//! A running Atoll: the one place where everything is put together.
//!
//! How it works: what can be refused is refused first (root, the data directory's lock, the address, QEMU), then database, host agent,
//! control plane and web layer start on top of each other. `admin.json` is written before the first request is taken: until
//! then a client waits in the listener's queue. Stopping goes the other way round: no new requests, no sandboxes, no requests
//! at all, no control plane.
//!
//! Deliberately absent: signals and terminals ([`crate::up`]), and every rule.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use atoll_control::Control;
use atoll_control::ports::SystemClock;
use atoll_disk::{Cache, Progress};
use atoll_domain::golden::GoldenShape;
use atoll_host::{AcceleratorChoice, DataDir, HostAgent, HostConfig, OnExit, StartError};
use atoll_store::Store;
use atoll_web::{DebugPort, Web};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::driver::InProcess;
use super::first_start::FirstStart;
use super::local_socket::{self, LocalSocket};
use super::{admin_file, first_start, key_file};
use crate::embedded;

/// How long requests may take to end after the sandboxes did.
const DRAIN: Duration = Duration::from_secs(20);

/// What an instance is made of.
#[derive(Clone)]
pub(crate) struct Parts {
    /// Its data directory.
    pub(crate) data: PathBuf,
    /// Where it listens besides its socket.
    pub(crate) listen: Option<SocketAddr>,
    /// Images and kernels.
    pub(crate) cache: Cache,
    /// Hears how they are made.
    pub(crate) progress: Arc<dyn Progress>,
    /// `auto`, `kvm` or `tcg`, checked.
    pub(crate) accelerator: AcceleratorChoice,
    /// Range of the links to sandboxes.
    pub(crate) address_pool: Option<String>,
    pub(crate) golden_shapes: Vec<GoldenShape>,
    pub(crate) golden_budget_mb: u64,
    pub(crate) disk_rate_mb: u64,
    pub(crate) output_kb: u64,
}

/// A running Atoll.
#[derive(Debug)]
pub(crate) struct Instance {
    /// The address of its API, if it listens.
    pub(crate) url: Option<String>,
    agent: HostAgent,
    control: Control,
    no_more_requests: CancellationToken,
    servers: Vec<JoinHandle<()>>,
    _socket: LocalSocket,
}

impl Instance {
    /// Starts one; it answers when this returns.
    pub(crate) async fn start(parts: Parts) -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            return Err(StartError::NeedsRoot.into());
        }
        let root = parts.data.clone();
        let (data, lock) = tokio::task::spawn_blocking(move || DataDir::open(&root)).await??;
        let listener = match parts.listen {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        need_qemu(Path::new(atoll_keeper::tree::PROGRAM))?;
        if !embedded::complete() {
            return Err(StartError::Incomplete.into());
        }
        let beginning = first_start::begin(&parts.data)?;
        let store =
            Store::open_sqlite(&first_start::database(&parts.data)).await.context("the database cannot be opened")?;
        let config = HostConfig {
            data: parts.data.clone(),
            cache: parts.cache,
            keeper: embedded::KEEPER,
            guest: embedded::GUEST,
            address_pool: parts.address_pool,
            accelerator: parts.accelerator,
            golden_shapes: parts.golden_shapes,
            golden_budget_mb: parts.golden_budget_mb,
            disk_rate_mb: parts.disk_rate_mb,
            output_kb: parts.output_kb,
            progress: parts.progress,
        };
        let agent = HostAgent::start(config, data, lock).await?;
        match serve(&parts.data, &agent, store, listener, beginning).await {
            Ok(instance) => Ok(instance),
            Err(error) => {
                // What it has taken over is not this failure's to end.
                agent.shutdown(OnExit::Keep).await;
                Err(error)
            }
        }
    }

    /// Ends it in order.
    pub(crate) async fn stop(mut self, on_exit: OnExit) {
        self.no_more_requests.cancel();
        self.agent.shutdown(on_exit).await;
        let drained = tokio::time::timeout(DRAIN, async {
            for server in &mut self.servers {
                let ended = server.await;
                if let Err(error) = ended {
                    tracing::error!(%error, "a listener failed");
                }
            }
        });
        if drained.await.is_err() {
            tracing::warn!("requests did not end in time and were cut off");
            for server in &self.servers {
                server.abort();
            }
        }
        self.control.shutdown().await;
    }
}

async fn serve(
    data: &Path,
    agent: &HostAgent,
    store: Store,
    listener: Option<TcpListener>,
    beginning: FirstStart,
) -> Result<Instance> {
    let driver = Arc::new(InProcess(agent.clone()));
    let (requests, sealing) = (key_file::requests(data)?, key_file::sealing(data)?);
    let (control, first) = Control::start(store, driver, Arc::new(SystemClock), requests, sealing).await?;
    let url = listener.as_ref().map(|listener| anyhow::Ok(url(listener.local_addr()?))).transpose()?;
    if let Some(url) = &url {
        admin_file::write(data, url, first)?;
    }
    beginning.finish()?;
    let (socket_listener, socket) = local_socket::bind(data)?;
    control.start_loops();
    let no_more_requests = CancellationToken::new();
    let servers = servers(&control, listener, socket_listener, &no_more_requests);
    Ok(Instance { url, agent: agent.clone(), control, no_more_requests, servers, _socket: socket })
}

fn servers(
    control: &Control,
    tcp: Option<TcpListener>,
    local: UnixListener,
    stop: &CancellationToken,
) -> Vec<JoinHandle<()>> {
    let debug_port = DebugPort::new(DebugPort::ADDRESS, stop.clone());
    let web = || Web { control: control.clone(), version: env!("CARGO_PKG_VERSION"), debug_port: debug_port.clone() };
    let (local_web, stop_local) = (web(), stop.clone());
    let mut servers = vec![tokio::spawn(atoll_web::serve_local(local, local_web, stop_local))];
    let debug = debug_port.clone();
    servers.push(tokio::spawn(async move { debug.stopped().await }));
    if let Some(tcp) = tcp {
        let (tcp_web, stop_tcp) = (web(), stop.clone());
        servers.push(tokio::spawn(atoll_web::serve_tcp(tcp, tcp_web, stop_tcp)));
    }
    servers
}

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => anyhow::anyhow!(
            "{address} is in use by another program: stop it, or choose another with --listen (port 0 takes a free one)"
        ),
        _ => anyhow::Error::new(error).context(format!("cannot listen on {address}")),
    })
}

/// The address for clients on this machine.
fn url(address: SocketAddr) -> String {
    let loopback: std::net::IpAddr = match address {
        SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    let ip = if address.ip().is_unspecified() { loopback } else { address.ip() };
    format!("http://{}", SocketAddr::new(ip, address.port()))
}

fn need_qemu(program: &Path) -> Result<()> {
    if std::fs::metadata(program).is_ok_and(|meta| meta.is_file()) {
        return Ok(());
    }
    bail!("QEMU is not installed ({} is missing): apt-get install qemu-system-x86", program.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_that_is_told_can_be_used_on_this_machine() {
        for (bound, told) in [
            ("127.0.0.1:7070", "http://127.0.0.1:7070"),
            ("0.0.0.0:80", "http://127.0.0.1:80"),
            ("[::]:80", "http://[::1]:80"),
            ("192.0.2.1:5", "http://192.0.2.1:5"),
        ] {
            assert_eq!(url(bound.parse().unwrap()), told);
        }
    }

    #[test]
    fn a_missing_qemu_is_named_with_what_to_install() {
        let error = need_qemu(Path::new("/nowhere/qemu-system-x86_64")).unwrap_err().to_string();
        assert!(error.contains("apt-get install qemu-system-x86") && error.contains("/nowhere"), "{error}");
    }

    #[tokio::test]
    async fn a_port_in_use_is_named_with_the_way_out() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let error = listen(address).await.unwrap_err().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("--listen"), "{error}");
    }
}
