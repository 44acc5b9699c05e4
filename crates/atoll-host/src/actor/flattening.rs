//! Making base and diff of a paused sandbox into a new base, while nobody waits for it.
//!
//! How it works: the first pause of a sandbox writes all that its guest ever touched; from then on a pause is to cost what changed. So when
//! a sandbox is paused, a blocking thread lays the diff over the base into a new file, which counts once the journal says so;
//! then diff and old base go. A resume that comes before calls it off within a piece and restores base and diff. One is made at a
//! time on a host, and only into space that is reserved for nobody: without it the next resume takes longer, no more.
//!
//! Deliberately absent: deciding whether it is worth it (`atoll_domain::snapshot::wants_flattening`).

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use atoll_domain::host::{HostError, SandboxSpec};
use atoll_domain::snapshot::{Digest as DomainDigest, wants_flattening};
use atoll_domain::{SandboxId, Shape};
use atoll_keeper::KeeperError;
use atoll_keeper::client::DIFF_FILE;
use atoll_keeper::memory::Digest;
use atoll_keeper::memory::flatten::flatten_while;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Actor;
use crate::admission;
use crate::error::{failed, from_keeper, join_failed};
use crate::generation::{self, BASE_PREFIX};
use crate::journal::{Base, Entry, Journal, Kept};
use crate::shared::Shared;
use crate::stamp::Stamp;

type Flat = Result<Option<Base>, HostError>;

/// A flattening under way, or none.
pub(super) struct Flattening {
    handle: Option<JoinHandle<Flat>>,
    called_off: CancellationToken,
}

impl Flattening {
    pub(super) fn none() -> Self {
        Self { handle: None, called_off: CancellationToken::new() }
    }

    /// Begins if it is worth it.
    pub(super) fn begin(shared: &Arc<Shared>, dir: &Path, spec: &SandboxSpec, kept: &Kept) -> Self {
        let memory = u64::from(spec.shape.memory_mb) << 20;
        let is_empty = kept.sources.base == Base::Empty;
        let wanted = kept.diff && wants_flattening(is_empty, kept.paused.bytes, memory);
        let Some(generation) = kept.paused.generation.clone().filter(|_| wanted) else { return Self::none() };
        let called_off = CancellationToken::new();
        let job = Job {
            shared: Arc::clone(shared),
            id: spec.id.clone(),
            dir: dir.to_owned(),
            shape: spec.shape,
            generation,
            base: kept.sources.base.clone(),
            called_off: called_off.clone(),
        };
        Self { handle: Some(tokio::spawn(job.in_turn())), called_off }
    }

    /// Ends with what came of it; never, while there is none.
    pub(super) async fn done(&mut self) -> Option<Base> {
        let Some(handle) = &mut self.handle else { return std::future::pending().await };
        let outcome = handle.await;
        self.handle = None;
        outcome_of(outcome)
    }

    /// Calls it off and answers the new base if it was ready before.
    pub(super) async fn stop(&mut self) -> Option<Base> {
        self.called_off.cancel();
        let handle = self.handle.take()?;
        outcome_of(handle.await)
    }

    /// Calls it off, and takes over what was ready before.
    pub(super) async fn stop_for(mut self, kept: &mut Kept) {
        if let Some(base) = self.stop().await {
            kept.sources.base = base;
            kept.diff = false;
        }
    }
}

fn outcome_of(outcome: Result<Flat, tokio::task::JoinError>) -> Option<Base> {
    match outcome {
        Ok(Ok(base)) => base,
        Ok(Err(error)) => {
            tracing::warn!(%error, "a paused sandbox's memory could not be flattened; its next resume takes longer");
            None
        }
        Err(error) => {
            tracing::error!(%error, "a flattening did not end well");
            None
        }
    }
}

struct Job {
    shared: Arc<Shared>,
    id: SandboxId,
    dir: PathBuf,
    shape: Shape,
    generation: String,
    base: Base,
    called_off: CancellationToken,
}

impl Job {
    /// Waits for its turn, looks whether there is space, and runs.
    async fn in_turn(self) -> Flat {
        let shared = Arc::clone(&self.shared);
        let turn = self.called_off.run_until_cancelled(shared.flattenings.acquire()).await;
        // The semaphore is never closed.
        let Some(Ok(_turn)) = turn else { return Ok(None) };
        admission::check_pause(shared.data.root(), self.shape, false, shared.promised(None))?;
        tokio::task::spawn_blocking(move || self.run()).await.map_err(join_failed)?
    }

    fn run(self) -> Flat {
        let name = format!("{BASE_PREFIX}{}.raw", generation::fresh_id()?);
        let path = self.dir.join(&name);
        let (digest, stamp) = match self.write(&path) {
            Ok(written) => written,
            Err(error) => {
                // It may not be there yet; what stays is removed by the next tidying.
                let _ = std::fs::remove_file(&path);
                return if matches!(error, FlattenError::CalledOff) { Ok(None) } else { Err(error.into()) };
            }
        };
        let base = Base::Own { file: name, digest, stamp: Some(stamp) };
        let commit = || {
            File::open(&self.dir)?.sync_all()?;
            Journal::open(&self.dir)?.write(&Entry::Flattened { base: base.clone() })
        };
        commit().map_err(|e| failed(&e))?;
        // From here on the new base is what is kept, whatever becomes of the old one.
        if let Err(error) = self.tidy(&base) {
            tracing::warn!(sandbox.id = %self.id, %error, "an old base could not be removed; the next tidying does");
        }
        Ok(Some(base))
    }

    /// Removes what is not needed any more. A crash before this leaves it to the next tidying.
    fn tidy(&self, base: &Base) -> Result<(), HostError> {
        generation::tidy(&self.dir, Some((&self.generation, false)), Some(base)).map_err(|e| failed(&e))?;
        super::rest_on(&self.shared, &self.id, Some(base))
    }

    fn write(&self, path: &Path) -> Result<(DomainDigest, Stamp), FlattenError> {
        let base = crate::base::open(&self.shared.objects, &self.dir, &self.base)?;
        let manifest = generation::manifest(&self.dir, &self.generation, &self.shared.signer)?;
        let none = || HostError::Damaged("the manifest names no memory".into());
        let expected = Digest(manifest.parts.memory_diff.ok_or_else(none)?.digest.0);
        let diff = File::open(generation::path(&self.dir, &self.generation).join(DIFF_FILE))?;
        let out = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        let go_on = || !self.called_off.is_cancelled();
        let memory = u64::from(self.shape.memory_mb) << 20;
        let digest = flatten_while(&base, Some((&diff, expected)), memory, &out, &go_on)?;
        if go_on() { Ok((DomainDigest(digest.0), Stamp::of(&out)?)) } else { Err(FlattenError::CalledOff) }
    }
}

/// Why there is no new base.
enum FlattenError {
    CalledOff,
    Host(HostError),
}

impl From<FlattenError> for HostError {
    fn from(error: FlattenError) -> Self {
        match error {
            FlattenError::CalledOff => Self::WrongState { state: "called off".into() },
            FlattenError::Host(error) => error,
        }
    }
}

impl From<HostError> for FlattenError {
    fn from(error: HostError) -> Self {
        Self::Host(error)
    }
}

impl From<std::io::Error> for FlattenError {
    fn from(error: std::io::Error) -> Self {
        Self::Host(failed(&error))
    }
}

impl From<KeeperError> for FlattenError {
    fn from(error: KeeperError) -> Self {
        match error {
            KeeperError::CalledOff => Self::CalledOff,
            other => Self::Host(from_keeper(other)),
        }
    }
}

impl Actor {
    /// The paused sandbox's base was made anew.
    pub(super) fn flattened(&mut self, base: Option<Base>) {
        if let (Some(base), Some(kept)) = (base, &mut self.kept) {
            kept.sources.base = base;
            kept.diff = false;
        }
    }
}
