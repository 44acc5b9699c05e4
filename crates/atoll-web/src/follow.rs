//! A process, followed over a socket.
//!
//! How it works: one half reads the process and writes frames, as fast as the client takes them; the agent keeps what is not read yet and says what
//! was lost. The other half reads the client and feeds the process ([`crate::feed`]); what becomes of that the first half tells. Whichever ends first ends the session, never the
//! process: only `stop` does that, also one that a client said right before it left.
//!
//! Deliberately absent: buffers of output.

use atoll_api::{Encoding, ExecClientFrame, StreamError, StreamFrame, StreamStart};
use atoll_control::sandboxes::{FollowFrom, ProcessHandle, Session, StartInput};
use atoll_control::{Control, ControlError, StreamPermit};
use atoll_domain::Principal;
use atoll_guest_client::ProcessEvent;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::error::WebError;
use crate::feed::{CAP, Feed, Notice, Notices};
use crate::frames::{Framer, Source};
use crate::metrics::Streamed;
use crate::session::{both, kill};
use crate::socket::{End, Reader, Said, Writer, json, told};

/// Which process a stream is of.
#[derive(Debug)]
pub(crate) enum Which {
    /// One that the first frame describes.
    New,
    /// One that is there.
    Running { process: String, from: FollowFrom },
}

/// Who follows, and where.
#[derive(Debug)]
pub(crate) struct Follow {
    pub(crate) control: Control,
    pub(crate) caller: Principal,
    pub(crate) id: String,
    pub(crate) which: Which,
    /// Counts how long it takes.
    pub(crate) streamed: Streamed,
    /// Held as long as the stream lives.
    pub(crate) permit: StreamPermit,
}

impl Follow {
    /// Runs the session.
    pub(crate) async fn run(self, mut reader: Reader, mut writer: Writer) -> End {
        let end = self.session(&mut reader, &mut writer).await;
        drop(self.permit);
        writer.close(reader, end).await
    }

    async fn session(&self, reader: &mut Reader, writer: &mut Writer) -> End {
        let (started, acks) = match self.begin(reader).await {
            Ok(begun) => begun,
            Err(end) => return end,
        };
        let mut session = match started {
            Ok(session) => session,
            Err(error) => return refuse(writer, error).await,
        };
        let handle = session.handle.clone();
        let feed = Feed::new(handle.clone(), false, acks);
        let telling = Telling { notices: feed.notices(), window: acks.then_some(CAP as u64), streamed: self.streamed };
        both(outbound(&mut session, writer, telling), inbound(&handle, feed, reader)).await
    }

    /// The process, and whether the client wants to know how much of its input was taken.
    async fn begin(&self, reader: &mut Reader) -> Result<(Result<Session, ControlError>, bool), End> {
        match &self.which {
            Which::Running { process, from } => {
                let begun = self.streamed.clock();
                let session = self.control.follow_process(&self.caller, &self.id, process, *from).await;
                begun.started();
                Ok((session, false))
            }
            Which::New => {
                let Said::Text(text) = reader.first().await? else {
                    return Err(End::Garbage("the first frame is `start`, as text".into()));
                };
                let ExecClientFrame::Start(start) = json(&text)? else {
                    return Err(End::Garbage("the first frame is `start`".into()));
                };
                let (begun, acks) = (self.streamed.clock(), start.input_acks);
                let session = self.control.start_process(&self.caller, &self.id, input(start)).await;
                begun.started();
                Ok((session, acks))
            }
        }
    }
}

fn input(start: StreamStart) -> StartInput {
    StartInput {
        cmd: start.cmd,
        args: start.args,
        cwd: start.cwd,
        envs: start.envs.unwrap_or_default(),
        user: start.user,
        tag: start.tag,
        timeout_sec: start.timeout_sec,
        stdin: start.stdin,
        pty: None,
        backpressure: start.backpressure,
    }
}

/// Tells why there is no process; one whose program is missing ends as it does in a shell.
async fn refuse(writer: &mut Writer, error: ControlError) -> End {
    let ended = match &error {
        ControlError::Invalid(invalid) if invalid.field == "cmd" => match invalid.code.as_str() {
            "not_found" => Some((127, invalid.detail.clone())),
            "not_executable" => Some((126, invalid.detail.clone())),
            _ => None,
        },
        _ => None,
    };
    let told = async {
        if let Some((exit_code, detail)) = ended {
            let line = atoll_api::Output { data: format!("{detail}\n"), encoding: Encoding::Utf8, offset: 0 };
            writer.json(&StreamFrame::Stderr(line)).await?;
            writer.json(&StreamFrame::Exit { exit_code, signal: None }).await?;
            return Ok(End::Done);
        }
        let error = told(&WebError::Control(error));
        writer.json(&StreamFrame::Error(error.clone())).await?;
        Ok(End::Failed(error.data))
    };
    told.await.unwrap_or_else(|end: End| end)
}

/// What is told besides what the process does.
struct Telling {
    notices: Notices,
    /// How much input may be on its way at once, for a client that wants to know.
    window: Option<u64>,
    streamed: Streamed,
}

/// Writes what the process does, and what becomes of its input.
async fn outbound(session: &mut Session, writer: &mut Writer, mut telling: Telling) -> End {
    let start = StreamFrame::Start {
        pid: session.pid,
        tag: session.tag.clone(),
        offset: session.offset,
        input_window: telling.window,
    };
    let mut framer = Framer::new(session.offset);
    let all = async {
        writer.json(&start).await?;
        loop {
            let event = tokio::select! {
                event = session.events.next() => event,
                notice = telling.notices.next() => {
                    writer.json(&match notice {
                        Notice::Taken(bytes) => StreamFrame::InputTaken { bytes },
                        Notice::Refused(error) => StreamFrame::Error(error),
                    }).await?;
                    continue;
                }
            };
            let came = telling.streamed.clock();
            // Bytes are a use; that somebody merely listens is none.
            if !matches!(event, Ok(Some(ProcessEvent::Keepalive))) {
                session.handle.touch();
            }
            let (frames, over) = match event {
                Ok(Some(ProcessEvent::Stdout(bytes) | ProcessEvent::Pty(bytes))) => {
                    (framer.push(Source::Stdout, &bytes), false)
                }
                Ok(Some(ProcessEvent::Stderr(bytes))) => (framer.push(Source::Stderr, &bytes), false),
                Ok(Some(ProcessEvent::Gap { bytes })) => (framer.gap(bytes), false),
                Ok(Some(ProcessEvent::Started { .. })) => continue,
                Ok(Some(ProcessEvent::Keepalive)) => {
                    writer.ping().await?;
                    continue;
                }
                Ok(Some(ProcessEvent::Ended { exit_code, signal, .. })) => {
                    let exit = StreamFrame::Exit { exit_code, signal };
                    (framer.flush().into_iter().chain([exit]).collect(), true)
                }
                Ok(None) => return Ok(End::Done),
                Err(error) => {
                    let error: StreamError = told(&WebError::Control(session.handle.why(error).await));
                    for frame in framer.flush().into_iter().chain([StreamFrame::Error(error.clone())]) {
                        writer.json(&frame).await?;
                    }
                    return Ok(End::Failed(error.data));
                }
            };
            for frame in &frames {
                writer.json(frame).await?;
            }
            came.written();
            if over {
                return Ok(End::Done);
            }
        }
    };
    all.await.unwrap_or_else(|end: End| end)
}

/// Does what the client says.
async fn inbound(handle: &ProcessHandle, mut feed: Feed, reader: &mut Reader) -> End {
    let end = loop {
        let frame = match feed.next(reader).await {
            Ok(Said::Text(text)) => json::<ExecClientFrame>(&text),
            Ok(Said::Binary(_)) => Err(End::Garbage("frames of this stream are text".into())),
            Err(end) => Err(end),
        };
        match frame {
            Err(end) => break end,
            Ok(ExecClientFrame::Stop) => kill(handle).await,
            Ok(ExecClientFrame::Stdin { data, encoding }) => match bytes(data, encoding) {
                Some(bytes) => feed.push(&bytes),
                None => break End::Garbage("data that is not base64".into()),
            },
            Ok(ExecClientFrame::CloseStdin) => feed.close(),
            Ok(ExecClientFrame::Start(_)) => break End::Garbage("it is started already".into()),
        }
    };
    feed.finish().await;
    end
}

fn bytes(data: String, encoding: Encoding) -> Option<Bytes> {
    match encoding {
        Encoding::Utf8 => Some(data.into()),
        Encoding::Base64 => STANDARD.decode(data).ok().map(Into::into),
    }
}
