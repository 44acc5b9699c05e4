//! How far each host's event stream has been taken in.
//!
//! How it works: one number a host, moved in the transaction that applies the event, and only forward.
//!
//! Deliberately absent: the events themselves; hosts keep them until they are acknowledged.

use atoll_domain::HostId;
use atoll_domain::host::EventSeq;

use crate::rows::get;
use crate::{Store, StoreError, WriteTransaction};

impl Store {
    /// The number of the last event that was stored.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn events_seen(&self, host: &HostId) -> Result<EventSeq, StoreError> {
        let sql = "SELECT events_seen FROM hosts WHERE id = $1";
        let row = self.row("read an event cursor", sql, vec![host.as_str().into()]).await?;
        let seen: i64 = row.map_or(Ok(0), |row| get(&row, "events_seen"))?;
        Ok(EventSeq(seen.unsigned_abs()))
    }
}

impl WriteTransaction {
    /// Moves the cursor forward; answers false when the event was stored before.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn see_event(&self, host: &HostId, seq: EventSeq) -> Result<bool, StoreError> {
        let sql = "UPDATE hosts SET events_seen = $2 WHERE id = $1 AND events_seen < $2";
        let seq = i64::try_from(seq.0).unwrap_or(i64::MAX);
        let moved = self.execute("move an event cursor", sql, vec![host.as_str().into(), seq.into()]).await?;
        Ok(moved == 1)
    }
}
