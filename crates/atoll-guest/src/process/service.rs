//! `process.Process` on the wire: from generated messages to [`super`] and back.
//!
//! How it works: each call checks its message, finds the process by pid or tag, and answers in the wire's types.
//!
//! Deliberately absent: rules; they are in the modules that it calls.

use std::sync::Arc;

use atoll_proto::process::{
    self as wire,
    __buffa::oneof::{process_input, process_selector, stream_input_request},
};
use connectrpc::{ConnectError, InboundStream, RequestContext, Response, ServiceRequest, ServiceResult, ServiceStream};
use futures_util::StreamExt;

use super::{
    follow::{Wishes, follow},
    record::{Config, Names, Pace, Record},
    start::{self, Request},
    table::{Selector, Table},
};
use crate::{error::AgentError, http::identity, settings::Settings};

/// The service.
pub(crate) struct ProcessService {
    pub(crate) table: Arc<Table>,
    pub(crate) settings: Arc<Settings>,
}

fn selector(selector: wire::ProcessSelector) -> Result<Selector, AgentError> {
    match selector.selector {
        Some(process_selector::Selector::Pid(pid)) => Ok(Selector::Pid(pid)),
        Some(process_selector::Selector::Tag(tag)) => Ok(Selector::Tag(tag)),
        None => Err(AgentError::Invalid("process names neither pid nor tag".into())),
    }
}

/// Waited for is only who asks. Who knows no gaps cannot be told what it missed, so more is kept for it.
fn pace(offsets: bool, backpressure: Option<bool>) -> Pace {
    match (backpressure, offsets) {
        (Some(true), _) => Pace::Waited,
        (_, true) => Pace::Free,
        (_, false) => Pace::Kept,
    }
}

/// Most bytes of an operation's name.
const OPERATION: usize = 256;

fn names(tag: Option<String>, operation: Option<String>) -> Result<Names, AgentError> {
    if operation.as_ref().is_some_and(|operation| operation.is_empty() || operation.len() > OPERATION) {
        return Err(AgentError::Invalid(format!("operation must have 1 to {OPERATION} bytes")));
    }
    Ok(Names { tag: tag.filter(|tag| !tag.is_empty()), operation })
}

fn terminal_size(pty: wire::PTY) -> (u16, u16) {
    let size = pty.size.into_option().unwrap_or_default();
    let bounded = |value: u32, default| match value {
        0 => default,
        value => u16::try_from(value).unwrap_or(u16::MAX),
    };
    (bounded(size.cols, 80), bounded(size.rows, 24))
}

fn to_info(record: &Record) -> wire::ProcessInfo {
    let config = record.config().unwrap_or_default();
    wire::ProcessInfo {
        pid: record.pid,
        tag: record.names.tag.clone(),
        config: wire::ProcessConfig {
            cmd: config.cmd,
            args: config.args,
            envs: config.envs.into_iter().collect(),
            cwd: config.cwd,
            ..Default::default()
        }
        .into(),
        ..Default::default()
    }
}

impl ProcessService {
    fn request(&self, ctx: &RequestContext, start: wire::StartRequest) -> Result<Request, AgentError> {
        let config = start.process.into_option().unwrap_or_default();
        Ok(Request {
            config: Config {
                cmd: config.cmd,
                args: config.args,
                envs: config.envs.into_iter().collect(),
                cwd: config.cwd,
            },
            user: identity::user(&self.settings, ctx.headers())?,
            names: names(start.tag, start.operation)?,
            stdin: start.stdin.unwrap_or(true),
            terminal: start.pty.into_option().map(terminal_size),
            deadline: ctx.deadline(),
        })
    }

    async fn input(&self, record: &Record, input: Option<wire::ProcessInput>) -> Result<(), AgentError> {
        match input.and_then(|input| input.input) {
            Some(process_input::Input::Stdin(bytes)) => record.input.write(record.pid, &bytes, false).await,
            Some(process_input::Input::Pty(bytes)) => record.input.write(record.pid, &bytes, true).await,
            None => Err(AgentError::Invalid("input holds neither stdin nor pty".into())),
        }
    }
}

impl wire::Process for ProcessService {
    async fn list(
        &self,
        _ctx: RequestContext,
        _request: ServiceRequest<'_, wire::ListRequest>,
    ) -> ServiceResult<wire::ListResponse> {
        let running = self.table.running();
        Response::ok(wire::ListResponse {
            processes: running.iter().map(|record| to_info(record)).collect(),
            ..Default::default()
        })
    }

    async fn start(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, wire::StartRequest>,
    ) -> ServiceResult<ServiceStream<wire::StartResponse>> {
        let message = request.to_owned_message();
        let offsets = message.want_offsets.unwrap_or(false);
        let pace = pace(offsets, message.backpressure);
        let request = self.request(&ctx, message)?;
        let (table, settings) = (Arc::clone(&self.table), Arc::clone(&self.settings));
        // On a task of its own: a caller that leaves now must not leave half a process.
        let started = self
            .table
            .tasks
            .spawn(async move { start::start(&table, &settings, request).await })
            .await
            .map_err(|_| ConnectError::internal("starting the process was interrupted"))??;
        let events = follow(
            started.record.reader(Some(0), pace),
            Wishes {
                offsets,
                known: started.before,
                keepalive: identity::keepalive(&ctx),
                deadline: None,
                owns_deadline: true,
            },
        );
        Ok(Response::stream(
            events.map(|event| event.map(|event| wire::StartResponse { event: event.into(), ..Default::default() })),
        ))
    }

    async fn connect(
        &self,
        ctx: RequestContext,
        request: ServiceRequest<'_, wire::ConnectRequest>,
    ) -> ServiceResult<ServiceStream<wire::ConnectResponse>> {
        let message = request.to_owned_message();
        let record = self.table.find(&selector(message.process.into_option().unwrap_or_default())?)?;
        let events = follow(
            record.reader(message.offset, pace(message.offset.is_some(), message.backpressure)),
            Wishes {
                offsets: message.offset.is_some(),
                known: false,
                keepalive: identity::keepalive(&ctx),
                deadline: ctx.deadline(),
                owns_deadline: false,
            },
        );
        Ok(Response::stream(
            events.map(|event| event.map(|event| wire::ConnectResponse { event: event.into(), ..Default::default() })),
        ))
    }

    async fn update(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, wire::UpdateRequest>,
    ) -> ServiceResult<wire::UpdateResponse> {
        let message = request.to_owned_message();
        let selector = selector(message.process.into_option().unwrap_or_default())?;
        let record = self.table.find_running(&selector)?;
        if let Some(pty) = message.pty.into_option() {
            let (cols, rows) = terminal_size(pty);
            record.input.resize(record.pid, cols, rows)?;
        }
        Response::ok(wire::UpdateResponse::default())
    }

    async fn stream_input(
        &self,
        _ctx: RequestContext,
        mut requests: InboundStream<wire::StreamInputRequest>,
    ) -> ServiceResult<wire::StreamInputResponse> {
        use stream_input_request::Event;
        let mut record = None;
        while let Some(message) = requests.next().await {
            match message?.to_owned_message().event {
                Some(Event::Start(start)) => {
                    let selector = selector(start.process.into_option().unwrap_or_default())?;
                    record = Some(self.table.find_running(&selector)?);
                }
                Some(Event::Data(data)) => {
                    let record = record
                        .as_ref()
                        .ok_or_else(|| AgentError::Invalid("the first message must be `start`".into()))?;
                    self.input(record, data.input.into_option()).await?;
                }
                Some(Event::Keepalive(_)) | None => {}
            }
        }
        Response::ok(wire::StreamInputResponse::default())
    }

    async fn send_input(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, wire::SendInputRequest>,
    ) -> ServiceResult<wire::SendInputResponse> {
        let message = request.to_owned_message();
        let selector = selector(message.process.into_option().unwrap_or_default())?;
        let record = self.table.find_running(&selector)?;
        self.input(&record, message.input.into_option()).await?;
        Response::ok(wire::SendInputResponse::default())
    }

    async fn send_signal(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, wire::SendSignalRequest>,
    ) -> ServiceResult<wire::SendSignalResponse> {
        let message = request.to_owned_message();
        let signal = message.signal.to_i32();
        if !(1..=64).contains(&signal) {
            return Err(
                AgentError::Invalid(format!("signal {signal} does not exist; use 1 to 64, such as 15 or 9")).into()
            );
        }
        let selector = selector(message.process.into_option().unwrap_or_default())?;
        self.table.find_running(&selector)?.signal(signal)?;
        Response::ok(wire::SendSignalResponse::default())
    }

    async fn close_stdin(
        &self,
        _ctx: RequestContext,
        request: ServiceRequest<'_, wire::CloseStdinRequest>,
    ) -> ServiceResult<wire::CloseStdinResponse> {
        let message = request.to_owned_message();
        let selector = selector(message.process.into_option().unwrap_or_default())?;
        let record = self.table.find_running(&selector)?;
        record.input.close(record.pid).await?;
        Response::ok(wire::CloseStdinResponse::default())
    }
}
