//! `filesystem.Filesystem` on the wire.
//!
//! How it works: each call resolves its path for its user, then runs where file calls may block.
//!
//! Deliberately absent: permissions of the user: the agent acts as root, as the wire has it.

use std::{fs, io, path::PathBuf, sync::Arc, time::Duration};

use atoll_proto::filesystem::{
    self as wire, __buffa::oneof::watch_dir_response::Event, watch_dir_response as watch_dir,
};
use connectrpc::{ConnectError, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};

use futures_util::{Stream, StreamExt, stream};
use tokio::time::timeout;

use super::{
    directory,
    entry::{self, Names},
    walk,
    watch::Watcher,
    watchers::Watchers,
};
use crate::{error::AgentError, http::identity, paths, settings::Settings, users::User};

/// The service.
pub(crate) struct FilesystemService {
    settings: Arc<Settings>,
    watchers: Watchers,
}

impl FilesystemService {
    pub(crate) fn new(settings: Arc<Settings>) -> Self {
        Self { settings, watchers: Watchers::default() }
    }

    fn resolve(&self, ctx: &RequestContext, path: &str) -> Result<(PathBuf, User), AgentError> {
        let user = identity::user(&self.settings, ctx.headers())?;
        Ok((paths::resolve(path, &user)?, user))
    }
}

/// Runs file calls where they may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AgentError> + Send + 'static,
) -> Result<T, ConnectError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| ConnectError::internal("a file call was interrupted"))?
        .map_err(ConnectError::from)
}

fn make_dir(path: PathBuf, user: &User) -> Result<wire::EntryInfo, AgentError> {
    if fs::metadata(&path).is_ok() {
        return Err(AgentError::Exists(path.display().to_string()));
    }
    directory::make_all(&path, user)?;
    entry::describe(&path, &Names::read()?)
}

fn move_entry(source: PathBuf, target: PathBuf, user: &User) -> Result<wire::EntryInfo, AgentError> {
    fs::symlink_metadata(&source).map_err(|error| AgentError::file(&source, error))?;
    if let Some(parent) = target.parent() {
        directory::make_all(parent, user)?;
    }
    fs::rename(&source, &target).map_err(|error| AgentError::file(&target, error))?;
    entry::describe(&target, &Names::read()?)
}

fn remove(path: PathBuf) -> Result<(), AgentError> {
    let removed = match fs::symlink_metadata(&path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(&path),
        Ok(_) => fs::remove_file(&path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(|error| AgentError::file(&path, error)),
    }
}

impl wire::Filesystem for FilesystemService {
    async fn stat(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, wire::StatRequest>,
    ) -> ServiceResult<wire::StatResponse> {
        let (path, _) = self.resolve(&ctx, request.path)?;
        let entry = blocking(move || entry::describe(&path, &Names::read()?)).await?;
        Response::ok(wire::StatResponse { entry: entry.into(), ..Default::default() })
    }

    async fn make_dir(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, wire::MakeDirRequest>,
    ) -> ServiceResult<wire::MakeDirResponse> {
        let (path, user) = self.resolve(&ctx, request.path)?;
        let entry = blocking(move || make_dir(path, &user)).await?;
        Response::ok(wire::MakeDirResponse { entry: entry.into(), ..Default::default() })
    }

    async fn r#move(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, wire::MoveRequest>,
    ) -> ServiceResult<wire::MoveResponse> {
        let (source, user) = self.resolve(&ctx, request.source)?;
        let (target, _) = self.resolve(&ctx, request.destination)?;
        let entry = blocking(move || move_entry(source, target, &user)).await?;
        Response::ok(wire::MoveResponse { entry: entry.into(), ..Default::default() })
    }

    async fn list_dir(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, wire::ListDirRequest>,
    ) -> ServiceResult<wire::ListDirResponse> {
        let (path, _) = self.resolve(&ctx, request.path)?;
        let depth = request.depth;
        let entries = blocking(move || walk::list(&path, depth)).await?;
        Response::ok(wire::ListDirResponse { entries, ..Default::default() })
    }

    async fn remove(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, wire::RemoveRequest>,
    ) -> ServiceResult<wire::RemoveResponse> {
        let (path, _) = self.resolve(&ctx, request.path)?;
        blocking(move || remove(path)).await?;
        Response::ok(wire::RemoveResponse::default())
    }

    async fn watch_dir(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, wire::WatchDirRequest>,
    ) -> ServiceResult<ServiceStream<wire::WatchDirResponse>> {
        let (path, _) = self.resolve(&ctx, request.path)?;
        let recursive = request.recursive;
        let watcher = blocking(move || Watcher::new(path, recursive)).await?;
        Ok(Response::stream(watch(watcher, identity::keepalive(&ctx))))
    }

    async fn create_watcher(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, wire::CreateWatcherRequest>,
    ) -> ServiceResult<wire::CreateWatcherResponse> {
        let (path, _) = self.resolve(&ctx, request.path)?;
        Response::ok(wire::CreateWatcherResponse {
            watcher_id: self.watchers.create(path, request.recursive)?,
            ..Default::default()
        })
    }

    async fn get_watcher_events(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, wire::GetWatcherEventsRequest>,
    ) -> ServiceResult<wire::GetWatcherEventsResponse> {
        Response::ok(wire::GetWatcherEventsResponse {
            events: self.watchers.events(request.watcher_id)?,
            ..Default::default()
        })
    }

    async fn remove_watcher(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, wire::RemoveWatcherRequest>,
    ) -> ServiceResult<wire::RemoveWatcherResponse> {
        self.watchers.remove(request.watcher_id)?;
        Response::ok(wire::RemoveWatcherResponse::default())
    }
}

/// `start`, then events, and keepalives where nothing happens.
fn watch(
    watcher: Watcher,
    keepalive: Duration,
) -> impl Stream<Item = Result<wire::WatchDirResponse, ConnectError>> + Send + 'static {
    let answer = |event: Event| wire::WatchDirResponse { event: Some(event), ..Default::default() };
    let start = answer(watch_dir::StartEvent::default().into());
    let first = stream::once(std::future::ready(Ok(start)));
    // After an error the stream is over.
    let rest = stream::unfold(Some(watcher), move |watcher| async move {
        let mut watcher = watcher?;
        let event = match timeout(keepalive, watcher.next()).await {
            Err(_) => watch_dir::KeepAlive::default().into(),
            Ok(Ok(event)) => event.into(),
            Ok(Err(error)) => return Some((Err(error.into()), None)),
        };
        Some((Ok(answer(event)), Some(watcher)))
    });
    first.chain(rest)
}
