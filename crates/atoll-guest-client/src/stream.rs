//! The events of one process, as they come.

use std::time::Duration;

use atoll_proto::process as wire;
use tokio::time::Instant;

use crate::{GuestError, Limits, Phase, ProcessEvent, connect::Envelopes};

/// How much longer than the process's own deadline this side waits for its end.
const GRACE: Duration = Duration::from_secs(15);

/// What a process does, until it ends. Dropping it leaves the process alone.
pub struct ProcessStream {
    envelopes: Envelopes,
    limits: Limits,
    kind: Kind,
    give_up: Option<(Instant, Duration)>,
    offset: u64,
}

#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Start,
    Connect,
}

impl ProcessStream {
    pub(crate) fn new(envelopes: Envelopes, limits: Limits, kind: Kind, timeout: Option<Duration>) -> Self {
        let give_up = timeout.and_then(|timeout| {
            let after = timeout.saturating_add(GRACE);
            Instant::now().checked_add(after).map(|at| (at, after))
        });
        Self { envelopes, limits, kind, give_up, offset: 0 }
    }

    /// How many bytes of the process's output, whichever descriptor, came before the next event:
    /// where [`crate::GuestClient::connect`] goes on without a loss. It counts what this stream
    /// has given, so that an agent cannot make it lie about that.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next event; `None` after the end.
    ///
    /// Dropping this future before it is ready loses no event.
    pub async fn next(&mut self) -> Result<Option<ProcessEvent>, GuestError> {
        let event = match self.give_up {
            None => self.read().await?,
            Some((at, after)) => tokio::time::timeout_at(at, self.read())
                .await
                .map_err(|_| GuestError::Timeout { phase: Phase::Body, after })??,
        };
        if let Some(event) = &event {
            self.offset = event.offset_after(self.offset);
        }
        Ok(event)
    }

    async fn read(&mut self) -> Result<Option<ProcessEvent>, GuestError> {
        let idle = self.limits.keepalive.saturating_mul(3);
        loop {
            let event = match self.kind {
                Kind::Start => self
                    .envelopes
                    .next::<wire::StartResponse>(&self.limits, idle)
                    .await?
                    .map(|response| response.event.into_option()),
                Kind::Connect => self
                    .envelopes
                    .next::<wire::ConnectResponse>(&self.limits, idle)
                    .await?
                    .map(|response| response.event.into_option()),
            };
            let Some(event) = event else {
                return Ok(None);
            };
            // An event of a newer agent that this version does not know is passed over.
            if let Some(event) = event.map(ProcessEvent::from_wire).transpose()?.flatten() {
                return Ok(Some(event));
            }
        }
    }
}

impl std::fmt::Debug for ProcessStream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ProcessStream").finish_non_exhaustive()
    }
}
