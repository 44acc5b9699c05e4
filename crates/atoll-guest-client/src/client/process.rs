//! Calls about processes.
//!
//! How it works: Connect calls of `process.Process`; starting and following are streams with a connection of their own.
//!
//! Deliberately absent: waiting for a process; whoever follows reads to the end.

use std::sync::Arc;

use atoll_proto::process as wire;
use bytes::Bytes;

use super::GuestClient;
use crate::{
    GuestError, InputSink, ProcessInfo, ProcessStream, PtySize, Selector, StartRequest,
    input::{self, to_wire},
    stream::Kind,
};

impl GuestClient {
    /// Starts a program and follows it.
    pub async fn start(&self, start: &StartRequest) -> Result<ProcessStream, GuestError> {
        let mut request = self.stream_request("/process.Process/Start", start.user.as_deref());
        if let Some(timeout) = start.timeout {
            let milliseconds = timeout.as_millis().clamp(1, 9_999_999_999);
            request = request.header("connect-timeout-ms", milliseconds.to_string());
        }
        let envelopes = self.open(request, &start.to_wire()).await?;
        let limits = self.limits.clone();
        Ok(ProcessStream::new(envelopes, limits, Kind::Start, start.timeout))
    }

    /// Follows a process that runs already, from byte `offset` of its output on
    /// (0: from the oldest byte that the agent still has, told by a gap).
    pub async fn connect(&self, selector: &Selector, offset: u64) -> Result<ProcessStream, GuestError> {
        self.follow(selector, offset, false).await
    }

    /// The same, and the process waits for this reader while it takes what comes.
    pub async fn connect_with_backpressure(
        &self,
        selector: &Selector,
        offset: u64,
    ) -> Result<ProcessStream, GuestError> {
        self.follow(selector, offset, true).await
    }

    async fn follow(&self, selector: &Selector, offset: u64, backpressure: bool) -> Result<ProcessStream, GuestError> {
        let message = wire::ConnectRequest {
            process: selector.to_wire().into(),
            offset: Some(offset),
            backpressure: backpressure.then_some(true),
            ..Default::default()
        };
        let request = self.stream_request("/process.Process/Connect", None);
        let envelopes = self.open(request, &message).await?;
        let limits = self.limits.clone();
        Ok(ProcessStream::new(envelopes, limits, Kind::Connect, None))
    }

    /// The processes that run.
    pub async fn list(&self) -> Result<Vec<ProcessInfo>, GuestError> {
        let answer: wire::ListResponse =
            self.call("/process.Process/List", None, &wire::ListRequest::default()).await?;
        let processes = answer.processes.into_iter();
        Ok(processes.map(ProcessInfo::from_wire).collect())
    }

    /// Sends a signal (its Linux number) to a process's whole group.
    pub async fn signal(&self, selector: &Selector, signal: i32) -> Result<(), GuestError> {
        let message =
            wire::SendSignalRequest { process: selector.to_wire().into(), signal: signal.into(), ..Default::default() };
        self.call::<wire::SendSignalResponse>("/process.Process/SendSignal", None, &message).await.map(drop)
    }

    /// Feeds standard input, or the terminal of a process that has one. For much input, or for
    /// single keys, [`Self::open_input`] is faster.
    pub async fn send_input(&self, selector: &Selector, input: Bytes, pty: bool) -> Result<(), GuestError> {
        let message = wire::SendInputRequest {
            process: selector.to_wire().into(),
            input: to_wire(&input, pty).into(),
            ..Default::default()
        };
        self.call::<wire::SendInputResponse>("/process.Process/SendInput", None, &message).await.map(drop)
    }

    /// Opens one connection for all input to come: standard input, or the terminal (`pty`).
    pub fn open_input(&self, selector: &Selector, pty: bool) -> Result<InputSink, GuestError> {
        let request = self.stream_request("/process.Process/StreamInput", None);
        let dial = Arc::clone(&self.dial);
        input::open(dial, self.limits.clone(), request, selector, pty)
    }

    /// Closes standard input.
    pub async fn close_stdin(&self, selector: &Selector) -> Result<(), GuestError> {
        let message = wire::CloseStdinRequest { process: selector.to_wire().into(), ..Default::default() };
        self.call::<wire::CloseStdinResponse>("/process.Process/CloseStdin", None, &message).await.map(drop)
    }

    /// Changes the size of a terminal.
    pub async fn resize(&self, selector: &Selector, size: PtySize) -> Result<(), GuestError> {
        let message = wire::UpdateRequest {
            process: selector.to_wire().into(),
            pty: size.to_wire().into(),
            ..Default::default()
        };
        self.call::<wire::UpdateResponse>("/process.Process/Update", None, &message).await.map(drop)
    }
}
