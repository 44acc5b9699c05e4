//! Accepting connections, over TCP and over the data directory's socket.
//!
//! How it works: one task per connection, HTTP/1.1, with bounds on the head's size, its fields and the time it takes to come, and on the number of
//! connections (beyond it new ones wait). When asked to stop nothing more is accepted, idle connections close at once, requests under way
//! have a while to end, and then what is left is dropped.
//!
//! Deliberately absent: TLS, HTTP/2.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::caller::LocalPeer;
use crate::socket::Serving;
use crate::{Web, routes};

/// Most connections at once, of each listener.
const CONNECTIONS: usize = 2048;
/// How long a request's head may take to come, and how long a connection may idle.
const HEAD_TIME: Duration = Duration::from_secs(75);
/// Most bytes of a request's head, and of what is read of a body at once.
const BUFFER: usize = 64 * 1024;
/// Most fields in a request's head.
const FIELDS: usize = 100;
/// How long requests under way have to end.
const GRACE: Duration = Duration::from_secs(15);
/// How long to wait after a failed accept (no descriptors left, mostly).
const BACKOFF: Duration = Duration::from_millis(100);

/// Serves TCP until `stop`, then waits a while for requests under way.
pub async fn serve_tcp(listener: TcpListener, web: Web, stop: CancellationToken) {
    let listener = Arc::new(listener);
    let accept = || {
        let listener = Arc::clone(&listener);
        async move {
            let (stream, _) = listener.accept().await?;
            // Small answers go out at once; a socket that refuses this is still a socket.
            let _ = stream.set_nodelay(true);
            Ok((stream, None))
        }
    };
    serve(accept, routes::router(web), stop).await;
}

/// Serves the data directory's socket until `stop`: root and the owner of this process need no key.
pub async fn serve_local(listener: UnixListener, web: Web, stop: CancellationToken) {
    let listener = Arc::new(listener);
    let own = nix::unistd::geteuid().as_raw();
    let accept = || {
        let listener = Arc::clone(&listener);
        async move {
            let (stream, _) = listener.accept().await?;
            let peer = match stream.peer_cred()?.uid() {
                uid if uid == 0 || uid == own => LocalPeer::Owner(uid),
                _ => LocalPeer::Other,
            };
            Ok((stream, Some(peer)))
        }
    };
    serve(accept, routes::router(web), stop).await;
}

/// What every request of a connection carries.
#[derive(Clone)]
struct Connection {
    router: Router,
    serving: Serving,
    peer: Option<LocalPeer>,
}

async fn serve<S, F>(accept: impl Fn() -> F + Send, router: Router, stop: CancellationToken)
where
    F: Future<Output = io::Result<(S, Option<LocalPeer>)>> + Send,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let serving = Serving { tasks: TaskTracker::new(), stop: stop.clone() };
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let next = async {
            let permit = Arc::clone(&room).acquire_owned().await;
            (accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            () = stop.cancelled() => break,
            next = next => next,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = Connection { router: router.clone(), serving: serving.clone(), peer };
                serving.tasks.spawn(async move {
                    connection.run(stream).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(BACKOFF) => {}
                }
            }
        }
    }
    serving.tasks.close();
    serving.tasks.wait().await;
}

impl Connection {
    async fn run<S>(self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { router, serving, peer } = self;
        let stop = serving.stop.clone();
        let service = tower::util::MapRequest::new(router, move |request: http::Request<Incoming>| {
            let mut request: Request = request.map(axum::body::Body::new);
            request.extensions_mut().insert(serving.clone());
            if let Some(peer) = peer {
                request.extensions_mut().insert(peer);
            }
            request
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_headers(FIELDS)
            .max_buf_size(BUFFER)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                let Ok(ended) = tokio::time::timeout(GRACE, connection).await else {
                    tracing::warn!("a request was still under way when Atoll stopped");
                    return;
                };
                ended
            }
        };
        if let Err(error) = ended {
            // Clients go away; that is no fault of anybody's.
            tracing::debug!(%error, "a connection ended");
        }
    }
}
