//! The HTTP server: connections, who may call, and which part answers.
//!
//! How it works: HTTP/1.1 alone. Heads, connections and idle time are bounded; callers from inside the guest have a
//! small share of connections, so that they cannot lock the host out.
//!
//! Deliberately absent: TLS: the way here is the host's own socket.

pub(crate) mod identity;
mod json;
pub(crate) mod query;
pub(crate) mod reply;
mod snapshot;
mod system;

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use atoll_proto::{filesystem::FilesystemExt, process::ProcessExt};
use connectrpc::{ConnectError, ConnectRpcService, Router};
use http::{Method, Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};
use tower::Service;

use crate::{
    console,
    disk::Disk,
    error::AgentError,
    files,
    filesystem::FilesystemService,
    host_keys::HostKeys,
    process::{Table, service::ProcessService},
    settings::Settings,
};
use reply::{Body, Reply};
pub(crate) use system::read_init;

/// The host's side of the wire.
const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 16, 0, 1));
/// Connections of the host, and of everybody else together.
const HOST_CONNECTIONS: usize = 1024;
const OTHER_CONNECTIONS: usize = 64;
/// How long a connection may take to send the head of a request.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);
/// How large a head may be.
const HEAD_BYTES: usize = 64 * 1024;
/// After so much silence a peer is asked whether it is there, so often, so many times.
const PROBE_AFTER: u32 = 60;
const PROBE_EVERY: u32 = 15;
const PROBES: u32 = 4;

/// A connection's number, counted up.
pub(crate) type ConnectionId = u64;

/// Everything that requests need.
pub(crate) struct App {
    pub(crate) settings: Arc<Settings>,
    pub(crate) table: Arc<Table>,
    /// This is a machine of its own: `/init` sets its clock, names and randomness.
    pub(crate) machine: bool,
    pub(crate) meter: system::Meter,
    pub(crate) disk: Disk,
    pub(crate) host_keys: HostKeys,
    /// Connections with smaller numbers are of an earlier life: nobody is at their other end.
    epoch: watch::Sender<ConnectionId>,
    connections: AtomicU64,
    rpc: ConnectRpcService,
}

impl App {
    pub(crate) fn new(settings: Arc<Settings>, table: Arc<Table>, machine: bool) -> Self {
        let process = Arc::new(ProcessService { table: Arc::clone(&table), settings: Arc::clone(&settings) });
        let filesystem = Arc::new(FilesystemService::new(Arc::clone(&settings)));
        let router = filesystem.register(process.register(Router::new()));
        Self {
            settings,
            table,
            machine,
            meter: system::Meter::default(),
            host_keys: HostKeys::default(),
            disk: if machine { Disk::of_machine() } else { Disk::none() },
            epoch: watch::Sender::new(0),
            connections: AtomicU64::new(1),
            rpc: ConnectRpcService::new(router),
        }
    }

    /// Closes every connection that was accepted before this one.
    pub(crate) fn close_before(&self, connection: ConnectionId) {
        self.epoch.send_if_modified(|since| {
            let later = connection > *since;
            *since = connection.max(*since);
            later
        });
    }
}

/// Accepts connections for ever.
pub(crate) async fn serve(listener: TcpListener, app: Arc<App>) {
    let host = Arc::new(Semaphore::new(HOST_CONNECTIONS));
    let others = Arc::new(Semaphore::new(OTHER_CONNECTIONS));
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                console::say(&format!("accept: {error}"));
                // Out of descriptors or memory: what runs now gives some back.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let share = if peer.ip() == GATEWAY { &host } else { &others };
        let Ok(permit) = Arc::clone(share).try_acquire_owned() else {
            continue;
        };
        prepare(&stream);
        let app = Arc::clone(&app);
        app.table.tasks.clone().spawn(async move {
            converse(&app, stream).await;
            drop(permit);
        });
    }
}

/// What fails here is only slower, or noticed later.
///
/// No TCP_USER_TIMEOUT: it counts the time in which a peer's window is closed as well, though the peer answers every
/// probe, and so would end the stream of a reader that is only slow. A peer that is gone answers neither these probes
/// nor those of a closed window, and the kernel gives it up; one of an earlier life is closed by `/init`.
fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = setsockopt(stream, sockopt::KeepAlive, &true);
    let _ = setsockopt(stream, sockopt::TcpKeepIdle, &PROBE_AFTER);
    let _ = setsockopt(stream, sockopt::TcpKeepInterval, &PROBE_EVERY);
    let _ = setsockopt(stream, sockopt::TcpKeepCount, &PROBES);
}

/// Serves one connection until it ends, or belongs to the past.
pub(crate) async fn converse(app: &Arc<App>, stream: impl AsyncRead + AsyncWrite + Unpin) {
    let connection = app.connections.fetch_add(1, Ordering::Relaxed);
    let mut epoch = app.epoch.subscribe();
    let service = service_fn(move |request| {
        let app = Arc::clone(app);
        async move { Ok::<_, Infallible>(answer(app, request, connection).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(HEAD_BYTES)
        .max_headers(64)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // What goes wrong on one connection is its caller's to see.
        _ = served => {}
        _ = epoch.wait_for(|since| connection < *since) => {}
    }
}

async fn answer(app: Arc<App>, request: Request<Incoming>, connection: ConnectionId) -> Reply {
    let path = request.uri().path();
    if path.starts_with("/process.") || path.starts_with("/filesystem.") {
        return call(&app, request).await;
    }
    let method = request.method().clone();
    let replied = match (path, &method) {
        ("/health", &Method::GET) => Ok(system::health()),
        ("/init", &Method::POST) => system::init(&app, request, connection).await,
        ("/files", &Method::GET | &Method::HEAD) => files::read(&app, request).await,
        ("/files", &Method::POST) => files::write(&app, request).await,
        ("/metrics", &Method::GET) => system::metrics(&app, &request).await,
        ("/envs", &Method::GET) => system::envs(&app, &request),
        ("/snapshot/prepare", &Method::POST) => snapshot::prepare(&app, request).await,
        ("/unfreeze", &Method::POST) => snapshot::unfreeze(&app, &request),
        ("/sync", &Method::POST) => snapshot::sync(&app, &request).await,
        ("/disk/grow", &Method::POST) => snapshot::grow(&app, &request).await,
        (
            "/health" | "/init" | "/files" | "/metrics" | "/envs" | "/snapshot/prepare" | "/unfreeze" | "/sync"
            | "/disk/grow",
            _,
        ) => Err(AgentError::BadMethod),
        // Which paths exist is not for everybody either.
        _ => identity::check(&app.settings, request.headers()).and(Err(AgentError::NoRoute)),
    };
    replied.unwrap_or_else(|error| reply::error(&error))
}

/// A Connect call, once the token is right.
async fn call(app: &App, request: Request<Incoming>) -> Reply {
    if let Err(error) = identity::check(&app.settings, request.headers()) {
        return ConnectError::from(error).into_http_response(request.headers()).map(Body::new);
    }
    match app.rpc.clone().call(request).await {
        Ok(response) => response.map(Body::new),
        Err(never) => match never {},
    }
}
