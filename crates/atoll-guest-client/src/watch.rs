//! What changes in a watched directory, as it is told.
//!
//! How it works: changes come as envelopes of a stream, or as the answer of a poll; kinds that are unknown here are
//! left out.
//!
//! Deliberately absent: following a directory that was replaced: the stream ends with it.

use atoll_proto::filesystem::{self as wire, __buffa::oneof::watch_dir_response::Event};

use crate::{GuestError, Limits, connect::Envelopes};

/// What happened to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It appeared.
    Create,
    /// Its content changed.
    Write,
    /// It was removed.
    Remove,
    /// It moved away from its name.
    Rename,
    /// Its rights, owner or times changed.
    Chmod,
}

/// One change below a watched directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The entry's path, relative to the watched directory.
    pub name: String,
    /// What happened to it.
    pub kind: ChangeKind,
}

impl Change {
    /// Reads a change. `None` is a kind that this version does not know.
    pub(crate) fn from_wire(event: wire::FilesystemEvent) -> Option<Self> {
        let kind = match event.r#type.to_i32() {
            1 => ChangeKind::Create,
            2 => ChangeKind::Write,
            3 => ChangeKind::Remove,
            4 => ChangeKind::Rename,
            5 => ChangeKind::Chmod,
            _ => return None,
        };
        Some(Self { name: event.name, kind })
    }
}

/// One thing that a [`WatchStream`] tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// The directory is watched from now on. Always the first event.
    Started,
    /// Something changed.
    Changed(Change),
    /// Nothing happened, and the agent is still there.
    Keepalive,
}

/// A watcher that is polled, by the agent's own name for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watcher(pub(crate) String);

impl Watcher {
    /// A watcher by its id, as [`Self::id`] gave it.
    pub fn from_id(id: impl Into<String>) -> Self {
        Self(id.into())
    }

    /// Its id: text out of a guest.
    pub fn id(&self) -> &str {
        &self.0
    }
}

/// What happens below a directory, until this is dropped.
pub struct WatchStream {
    envelopes: Envelopes,
    limits: Limits,
}

impl WatchStream {
    pub(crate) fn new(envelopes: Envelopes, limits: Limits) -> Self {
        Self { envelopes, limits }
    }

    /// The next event; `None` when the agent ended the watch.
    ///
    /// Dropping this future before it is ready loses no event.
    pub async fn next(&mut self) -> Result<Option<WatchEvent>, GuestError> {
        let idle = self.limits.keepalive.saturating_mul(3);
        let response: Option<wire::WatchDirResponse> = self.envelopes.next(&self.limits, idle).await?;
        Ok(response.map(|response| match response.event {
            Some(Event::Start(_)) => WatchEvent::Started,
            Some(Event::Filesystem(event)) => {
                Change::from_wire(*event).map_or(WatchEvent::Keepalive, WatchEvent::Changed)
            }
            // An event of a newer agent that this version does not know is a sign of life.
            Some(Event::Keepalive(_)) | None => WatchEvent::Keepalive,
        }))
    }
}

impl std::fmt::Debug for WatchStream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("WatchStream").finish_non_exhaustive()
    }
}
