//! The control plane as a whole: what every call needs.
//!
//! How it works: a cheap handle to the database, the host, the clock, the tokens of running sandboxes, and the tracker of tasks that
//! outlive requests. [`Control::shutdown`] awaits them all.
//!
//! Deliberately absent: globals.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use atoll_domain::access::{Action, allows};
use atoll_domain::audit::AuditAction;
use atoll_domain::host::{Call, EventSeq, GuestToken};
use atoll_domain::record::{AuditEntry, Sandbox};
use atoll_domain::{HostId, Incarnation, OperationId, Principal, SandboxId, TeamId};
use atoll_store::{Step, Store};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bootstrap::{self, FirstStart};
use crate::joined::Joined;
use crate::once::{Keys, RequestKey};
use crate::ports::{Clock, HostDriver};
use crate::seal::SealingKey;
use crate::streams::Streams;
use crate::uses::{InUse, Uses};
use crate::{ControlError, background, random};

struct Inner {
    store: Store,
    driver: Arc<dyn HostDriver>,
    clock: Arc<dyn Clock>,
    team: TeamId,
    host: HostId,
    tasks: TaskTracker,
    stopping: CancellationToken,
    /// Tokens of running sandboxes; asked from the host again when one is missing.
    tokens: Mutex<HashMap<SandboxId, GuestToken>>,
    /// Sandboxes with a call to the host under way.
    busy: Mutex<HashMap<SandboxId, u32>>,
    uses: Uses,
    /// Resumes under way.
    resumes: Joined,
    /// Templates that somebody removes.
    dropping: Mutex<HashSet<String>>,
    sealing: SealingKey,
    streams: Streams,
    calls: Streams,
    request_key: RequestKey,
    keys: Keys,
    /// The last of the host's events that is stored.
    events_seen: watch::Sender<EventSeq>,
}

/// The control plane. Clones are handles to the same.
#[derive(Clone)]
pub struct Control(Arc<Inner>);

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("host", &self.0.host).finish_non_exhaustive()
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change under these locks is one insert or remove; a panic leaves the map whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Control {
    /// Starts on a database and a host; requests are digested under `request_key`. Makes the first admin, team and key if there is none.
    ///
    /// # Errors
    /// A failing database.
    pub async fn start(
        store: Store,
        driver: Arc<dyn HostDriver>,
        clock: Arc<dyn Clock>,
        request_key: RequestKey,
        sealing: SealingKey,
    ) -> Result<(Self, Option<FirstStart>), ControlError> {
        let (team, host, first) = bootstrap::ensure(&store, clock.now_micros()).await?;
        let keys = Keys::new(store.newest_request().await?, clock.as_ref());
        let seen = store.events_seen(&host).await?;
        let control = Self(Arc::new(Inner {
            store,
            driver,
            clock,
            team,
            host,
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            tokens: Mutex::default(),
            busy: Mutex::default(),
            uses: Uses::default(),
            resumes: Joined::default(),
            dropping: Mutex::default(),
            sealing,
            streams: Streams::sessions(),
            calls: Streams::calls(),
            request_key,
            keys,
            events_seen: watch::Sender::new(seen),
        }));
        Ok((control, first))
    }

    /// Starts the background loops.
    pub fn start_loops(&self) {
        background::start(self);
    }

    /// Stops the loops, waits for every call that is under way, and closes the database.
    pub async fn shutdown(&self) {
        self.0.stopping.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
        if let Err(error) = self.write_uses().await {
            tracing::error!(%error, "the last uses of sandboxes could not be written down");
        }
        self.0.store.close().await;
    }

    /// The database, for reading.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    pub(crate) fn driver(&self) -> &Arc<dyn HostDriver> {
        &self.0.driver
    }

    pub(crate) fn now(&self) -> i64 {
        self.0.clock.now_micros()
    }

    /// Microseconds of the clock that never jumps.
    pub(crate) fn steady(&self) -> i64 {
        self.0.clock.steady_micros()
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.0.keys
    }

    pub(crate) fn first_team(&self) -> &TeamId {
        &self.0.team
    }

    /// The host that this Atoll itself is.
    pub(crate) fn own_host(&self) -> &HostId {
        &self.0.host
    }

    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.0.stopping
    }

    pub(crate) fn sealing(&self) -> &SealingKey {
        &self.0.sealing
    }

    pub(crate) fn uses(&self) -> &Uses {
        &self.0.uses
    }

    pub(crate) fn resumes(&self) -> &Joined {
        &self.0.resumes
    }

    pub(crate) fn request_key(&self) -> &RequestKey {
        &self.0.request_key
    }

    pub(crate) fn calls(&self) -> &Streams {
        &self.0.calls
    }

    pub(crate) fn streams(&self) -> &Streams {
        &self.0.streams
    }

    /// Told of every event of the host's that is stored.
    pub(crate) fn events_seen(&self) -> &watch::Sender<EventSeq> {
        &self.0.events_seen
    }

    /// Runs something that must end whatever becomes of the request.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.0.tasks.spawn(work)
    }

    /// A fresh call about one life of a sandbox.
    pub(crate) fn call(incarnation: Incarnation) -> Result<Call, ControlError> {
        Ok(Call { operation: OperationId::from_random(random::bytes()?), incarnation })
    }

    pub(crate) fn authorise(principal: &Principal, action: Action) -> Result<(), ControlError> {
        let who = match principal {
            Principal::User { .. } => "this user",
            Principal::ApiKey { .. } => "an API key",
            Principal::Local { .. } | Principal::System => "this principal",
        };
        if allows(principal, action) { Ok(()) } else { Err(ControlError::Forbidden { who }) }
    }

    /// A row of the audit log about a sandbox.
    pub(crate) fn audit(&self, principal: &Principal, action: AuditAction, sandbox: &Sandbox) -> AuditEntry {
        let metadata = [("template".to_owned(), sandbox.template.clone())].into();
        self.audit_of(principal, action, &sandbox.team, sandbox.id.to_string(), metadata)
    }

    /// A row of a team's audit log.
    pub(crate) fn audit_of(
        &self,
        principal: &Principal,
        action: AuditAction,
        team: &TeamId,
        resource_id: String,
        metadata: BTreeMap<String, String>,
    ) -> AuditEntry {
        let (actor_type, actor_id, actor_name) = match principal {
            Principal::User { id, name, .. } => ("user", Some(id.to_string()), Some(name.clone())),
            Principal::ApiKey { id, name, .. } => ("api_key", Some(id.to_string()), Some(name.clone())),
            Principal::Local { uid, .. } => ("local", Some(uid.to_string()), None),
            Principal::System => ("system", None, None),
        };
        AuditEntry {
            team: team.clone(),
            actor_type,
            actor_id,
            actor_name,
            action,
            resource_id,
            metadata,
            at: self.now(),
        }
    }

    pub(crate) fn remember_token(&self, id: &SandboxId, token: GuestToken) {
        held(&self.0.tokens).insert(id.clone(), token);
    }

    pub(crate) fn known_token(&self, id: &SandboxId) -> Option<GuestToken> {
        held(&self.0.tokens).get(id).cloned()
    }

    pub(crate) fn forget(&self, id: &SandboxId) {
        held(&self.0.tokens).remove(id);
        self.0.uses.forget(id);
    }

    /// Marks a sandbox as having a call under way, until the guard is dropped.
    pub(crate) fn busy(&self, id: &SandboxId) -> Busy {
        *held(&self.0.busy).entry(id.clone()).or_default() += 1;
        Busy { inner: Arc::clone(&self.0), id: id.clone() }
    }

    pub(crate) fn busy_ones(&self) -> HashSet<SandboxId> {
        held(&self.0.busy).keys().cloned().collect()
    }

    /// Says that a template's files are being removed, until the guard is dropped; none when somebody does already.
    pub(crate) fn dropping(&self, template: &str) -> Option<Dropping> {
        let fresh = held(&self.0.dropping).insert(template.to_owned());
        fresh.then(|| Dropping { inner: Arc::clone(&self.0), template: template.to_owned() })
    }

    /// Notes that a sandbox was used; told and written down by loops, as both cost more than the use.
    pub(crate) fn used(&self, id: &SandboxId) {
        self.0.uses.note(id, self.now());
    }

    /// Says that a request about a sandbox is being carried out, until the guard is dropped.
    pub(crate) fn in_use(&self, id: &SandboxId) -> InUse {
        self.0.uses.begin(id, self.now())
    }

    /// When it was used, if that is not written down yet.
    pub(crate) fn last_use(&self, id: &SandboxId) -> Option<i64> {
        self.0.uses.last(id)
    }

    /// Writes down when sandboxes were used.
    pub(crate) async fn write_uses(&self) -> Result<usize, ControlError> {
        let uses = self.0.uses.take_unwritten();
        if uses.is_empty() {
            return Ok(0);
        }
        let tx = self.0.store.begin(Step::Uses).await?;
        for (id, at) in &uses {
            tx.touch(id, *at).await?;
        }
        tx.commit().await?;
        Ok(uses.len())
    }
}

/// Says that a call about a sandbox is under way.
pub(crate) struct Busy {
    inner: Arc<Inner>,
    id: SandboxId,
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut busy = held(&self.inner.busy);
        if let Some(count) = busy.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                busy.remove(&self.id);
            }
        }
    }
}

/// Says that a template's files are being removed.
pub(crate) struct Dropping {
    inner: Arc<Inner>,
    template: String,
}

impl Drop for Dropping {
    fn drop(&mut self) {
        held(&self.inner.dropping).remove(&self.template);
    }
}
