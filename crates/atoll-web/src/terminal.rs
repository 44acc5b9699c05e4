//! A terminal over a socket.
//!
//! How it works: the session belongs to the guest: a lost connection leaves it, `connect` comes back to it by its tag, from any byte that is still kept.
//! Output is JSON with base64, or binary frames when the URL says `?wire=binary` or the client's first input is a binary frame.
//!
//! Deliberately absent: understanding what a terminal shows.

use std::sync::atomic::{AtomicBool, Ordering};

use atoll_api::{PtyClientFrame, PtyFrame, PtyStart};
use atoll_control::sandboxes::{FollowFrom, ProcessHandle, Session, StartInput};
use atoll_control::{Control, ControlError, StreamPermit};
use atoll_domain::Principal;
use atoll_guest_client::{ProcessEvent, PtySize};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::WebError;
use crate::feed::{Feed, Notice, Notices};
use crate::metrics::Streamed;
use crate::session::{both, kill};
use crate::socket::{End, Reader, Said, Writer, json, told};

const STREAMED: Streamed = Streamed("/v1/sandboxes/{id}/pty");

/// A terminal's session.
#[derive(Debug)]
pub(crate) struct Terminal {
    pub(crate) control: Control,
    pub(crate) caller: Principal,
    pub(crate) id: String,
    /// Whether output goes as binary frames.
    pub(crate) binary: AtomicBool,
    /// Held as long as the stream lives.
    pub(crate) permit: StreamPermit,
}

impl Terminal {
    /// Runs the session.
    pub(crate) async fn run(self, mut reader: Reader, mut writer: Writer) -> End {
        let end = self.session(&mut reader, &mut writer).await;
        drop(self.permit);
        writer.close(reader, end).await
    }

    async fn session(&self, reader: &mut Reader, writer: &mut Writer) -> End {
        let mut session = match self.begin(reader).await {
            Ok(Ok(session)) => session,
            Ok(Err(error)) => {
                let error = told(&WebError::Control(error));
                return match writer.json(&PtyFrame::Error(error.clone())).await {
                    Ok(()) => End::Failed(error.data),
                    Err(end) => end,
                };
            }
            Err(end) => return end,
        };
        let handle = session.handle.clone();
        let feed = Feed::new(handle.clone(), true, false);
        let notices = feed.notices();
        both(self.outbound(&mut session, writer, notices), self.inbound(&handle, feed, reader)).await
    }

    async fn begin(&self, reader: &mut Reader) -> Result<Result<Session, ControlError>, End> {
        let Said::Text(text) = reader.first().await? else {
            return Err(End::Garbage("the first frame is text".into()));
        };
        let begun = STREAMED.clock();
        let session = match json(&text)? {
            PtyClientFrame::Start(start) => self.control.start_process(&self.caller, &self.id, input(start)).await,
            PtyClientFrame::Connect { tag, offset, backpressure } => {
                let from = FollowFrom { offset, backpressure };
                self.control.follow_process(&self.caller, &self.id, &tag, from).await
            }
            _ => return Err(End::Garbage("first is `start` or `connect`".into())),
        };
        begun.started();
        Ok(session)
    }

    async fn outbound(&self, session: &mut Session, writer: &mut Writer, mut notices: Notices) -> End {
        let tag = session.tag.clone().unwrap_or_else(|| session.pid.to_string());
        let mut at = session.offset;
        let all = async {
            writer.json(&PtyFrame::Started { tag, pid: session.pid, offset: at }).await?;
            loop {
                let event = tokio::select! {
                    event = session.events.next() => event,
                    notice = notices.next() => {
                        if let Notice::Refused(error) = notice {
                            writer.json(&PtyFrame::Error(error)).await?;
                        }
                        continue;
                    }
                };
                let came = STREAMED.clock();
                // Bytes are a use; that somebody merely listens is none.
                if !matches!(event, Ok(Some(ProcessEvent::Keepalive))) {
                    session.handle.touch();
                }
                match event {
                    Ok(Some(ProcessEvent::Pty(bytes) | ProcessEvent::Stdout(bytes) | ProcessEvent::Stderr(bytes))) => {
                        let offset = at;
                        at += bytes.len() as u64;
                        if self.binary.load(Ordering::Relaxed) {
                            writer.binary(bytes).await?;
                        } else {
                            writer.json(&PtyFrame::Output { data: STANDARD.encode(&bytes), offset }).await?;
                        }
                        came.written();
                    }
                    Ok(Some(ProcessEvent::Gap { bytes })) => {
                        writer.json(&PtyFrame::Gap { bytes, offset: at }).await?;
                        at += bytes;
                    }
                    Ok(Some(ProcessEvent::Keepalive)) => writer.json(&PtyFrame::Ping).await?,
                    Ok(Some(ProcessEvent::Started { .. })) => {}
                    Ok(Some(ProcessEvent::Ended { exit_code, .. })) => {
                        writer.json(&PtyFrame::Exit { exit_code }).await?;
                        return Ok(End::Done);
                    }
                    Ok(None) => return Ok(End::Done),
                    Err(error) => {
                        let error = told(&WebError::Control(session.handle.why(error).await));
                        writer.json(&PtyFrame::Error(error.clone())).await?;
                        return Ok(End::Failed(error.data));
                    }
                }
            }
        };
        all.await.unwrap_or_else(|end: End| end)
    }

    async fn inbound(&self, handle: &ProcessHandle, mut feed: Feed, reader: &mut Reader) -> End {
        let mut spoken = false;
        let end = loop {
            let frame = match feed.next(reader).await {
                Err(end) => break end,
                Ok(Said::Binary(bytes)) => {
                    if !spoken {
                        self.binary.store(true, Ordering::Relaxed);
                    }
                    spoken = true;
                    feed.push(&bytes);
                    continue;
                }
                Ok(Said::Text(text)) => json(&text),
            };
            match frame {
                Err(end) => break end,
                Ok(PtyClientFrame::Input { data }) => {
                    spoken = true;
                    match STANDARD.decode(data) {
                        Ok(bytes) => feed.push(&bytes),
                        Err(_) => break End::Garbage("data that is not base64".into()),
                    }
                }
                Ok(PtyClientFrame::Resize { cols, rows }) => match size(cols, rows) {
                    Some(size) => resize(handle, size).await,
                    None => break End::Garbage("a size of nothing".into()),
                },
                Ok(PtyClientFrame::Kill) => kill(handle).await,
                Ok(PtyClientFrame::Pong) => {}
                Ok(PtyClientFrame::Start(_) | PtyClientFrame::Connect { .. }) => {
                    break End::Garbage("it is started already".into());
                }
            }
        };
        feed.finish().await;
        end
    }
}

async fn resize(handle: &ProcessHandle, size: PtySize) {
    if let Err(error) = handle.resize(size).await {
        // The program may have ended a moment ago, which the other half tells.
        tracing::debug!(%error, "a terminal did not take its new size");
    }
}

fn size(cols: u16, rows: u16) -> Option<PtySize> {
    (cols > 0 && rows > 0).then_some(PtySize { cols, rows })
}

fn input(start: PtyStart) -> StartInput {
    let mut envs = start.envs.unwrap_or_default();
    envs.entry("TERM".into()).or_insert_with(|| "xterm-256color".into());
    let cmd = if start.cmd.is_empty() { PtyStart::default().cmd } else { start.cmd };
    StartInput {
        cmd,
        args: start.args,
        cwd: start.cwd,
        envs,
        user: start.user,
        tag: start.tag,
        timeout_sec: None,
        stdin: true,
        pty: Some(size(start.cols, start.rows).unwrap_or(PtySize { cols: 80, rows: 24 })),
        backpressure: start.backpressure,
    }
}
