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
use axum::extract::{Extension, Request};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::caller::LocalPeer;
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
    let (router, listener) = (routes::router(web), Arc::new(listener));
    let accept = || {
        let (router, listener) = (router.clone(), Arc::clone(&listener));
        async move {
            let (stream, _) = listener.accept().await?;
            // Small answers go out at once; a socket that refuses this is still a socket.
            let _ = stream.set_nodelay(true);
            Ok((stream, router))
        }
    };
    serve(accept, stop).await;
}

/// Serves the data directory's socket until `stop`: root and the owner of this process need no key.
pub async fn serve_local(listener: UnixListener, web: Web, stop: CancellationToken) {
    let (router, listener) = (routes::router(web), Arc::new(listener));
    let own = nix::unistd::geteuid().as_raw();
    let accept = || {
        let (router, listener) = (router.clone(), Arc::clone(&listener));
        async move {
            let (stream, _) = listener.accept().await?;
            let peer = match stream.peer_cred()?.uid() {
                uid if uid == 0 || uid == own => LocalPeer::Owner(uid),
                _ => LocalPeer::Other,
            };
            Ok((stream, router.layer(Extension(peer))))
        }
    };
    serve(accept, stop).await;
}

async fn serve<S, F>(accept: impl Fn() -> F, stop: CancellationToken)
where
    F: Future<Output = io::Result<(S, Router)>> + Send,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let tasks = TaskTracker::new();
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
            Ok((stream, router)) => {
                let stop = stop.clone();
                tasks.spawn(async move {
                    connection(stream, router, stop).await;
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
    tasks.close();
    tasks.wait().await;
}

async fn connection<S>(stream: S, router: Router, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(tower::util::MapRequest::new(router, |request: http::Request<_>| {
        let request: Request = request.map(axum::body::Body::new);
        request
    }));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_headers(FIELDS)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(GRACE, connection).await {
                Ok(ended) => ended,
                Err(_) => {
                    tracing::warn!("a request was still under way when Atoll stopped");
                    return;
                }
            }
        }
    };
    if let Err(error) = ended {
        // Clients go away; that is no fault of anybody's.
        tracing::debug!(%error, "a connection ended");
    }
}
