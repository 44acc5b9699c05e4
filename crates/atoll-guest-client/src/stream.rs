//! The events of one process, as they come.
//!
//! How it works: envelopes become events one by one; the agent is held to the order start, output, end, and the offset
//! counts what was given. A stream that is silent for too long, or outlives the process's own deadline, is given up;
//! the time in which its reader did not ask counts in neither.
//!
//! Deliberately absent: ending the process: a dropped stream leaves it alone.

use std::time::Duration;

use atoll_proto::process as wire;
use tokio::time::Instant;

use crate::{GuestError, Limits, Phase, ProcessEvent, connect::Envelopes};

/// What a process does, until it ends. Dropping it leaves the process alone.
pub struct ProcessStream {
    envelopes: Envelopes,
    limits: Limits,
    kind: Kind,
    give_up: Option<(Instant, Duration)>,
    /// Since when its reader has not asked.
    away: Option<Instant>,
    offset: u64,
    stage: Stage,
}

/// How far the agent has told a process's life.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    New,
    Running,
    Ended,
}

#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Start,
    Connect,
}

impl ProcessStream {
    pub(crate) fn new(envelopes: Envelopes, limits: Limits, kind: Kind, timeout: Option<Duration>) -> Self {
        let give_up = timeout.and_then(|timeout| {
            let after = timeout.saturating_add(limits.grace);
            Instant::now().checked_add(after).map(|at| (at, after))
        });
        Self { envelopes, limits, kind, give_up, away: None, offset: 0, stage: Stage::New }
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
        if let (Some(away), Some((at, _))) = (self.away.take(), &mut self.give_up) {
            // What a slow reader left unread is older than the deadline and no fault of the agent's.
            *at += away.elapsed();
        }
        let event = match self.give_up {
            None => self.read().await?,
            Some((at, after)) => tokio::time::timeout_at(at, self.read())
                .await
                .map_err(|_| GuestError::Timeout { phase: Phase::Body, after })??,
        };
        self.follow(event.as_ref())?;
        self.away = Some(Instant::now());
        Ok(event)
    }

    /// Holds the agent to the order that [`ProcessEvent`] promises.
    fn follow(&mut self, event: Option<&ProcessEvent>) -> Result<(), GuestError> {
        let stage = match (self.stage, event) {
            (stage, Some(ProcessEvent::Keepalive)) if stage != Stage::Ended => stage,
            (Stage::New, Some(ProcessEvent::Started { .. })) => Stage::Running,
            (Stage::New, _) => return Err(GuestError::protocol("a stream that does not begin with its process")),
            (Stage::Running, Some(ProcessEvent::Started { .. })) => {
                return Err(GuestError::protocol("a process that starts twice"));
            }
            (Stage::Running, Some(ProcessEvent::Ended { .. })) => Stage::Ended,
            (Stage::Running, Some(_)) => Stage::Running,
            (Stage::Running, None) => return Err(GuestError::protocol("a stream that ends before its process")),
            (Stage::Ended, None) => Stage::Ended,
            (Stage::Ended, Some(_)) => return Err(GuestError::protocol("a stream that goes on after its end")),
        };
        self.stage = stage;
        if let Some(event) = event {
            self.offset = event.offset_after(self.offset);
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<Option<ProcessEvent>, GuestError> {
        let idle = self.limits.keepalive.saturating_mul(3);
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
        // An event of a newer agent that this version does not know only says that it lives: passing
        // it over here would let an agent keep its reader in this call for ever.
        event.map(|event| event.map_or(Ok(ProcessEvent::Keepalive), ProcessEvent::from_wire)).transpose()
    }
}

impl std::fmt::Debug for ProcessStream {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ProcessStream").finish_non_exhaustive()
    }
}
