//! `POST /files`: one file as the body itself, or several in a form.
//!
//! Written in place, not beside and renamed: whoever watches the directory sees
//! CREATE, CHMOD and WRITE and nothing else. An upload that breaks off leaves what
//! has come.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, fchown},
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Serialize;
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};

use super::{
    PIECES, Target,
    multipart::{Event, Parser},
    read::blocking,
    target,
};
use crate::{
    error::AgentError,
    filesystem::directory,
    http::{
        App,
        reply::{self, Reply},
    },
    paths,
    users::User,
};

/// How long the next piece of an upload may take.
const PATIENCE: Duration = Duration::from_mins(2);
/// How many files one form may hold.
const FORM_FILES: usize = 4096;

/// A file that was written, as the wire tells it.
#[derive(Serialize)]
struct Written {
    path: String,
    name: String,
    r#type: &'static str,
}

/// Answers an upload.
pub(crate) async fn write(app: &App, request: Request<Incoming>) -> Result<Reply, AgentError> {
    let target = target(app, request.uri(), request.headers(), "write")?;
    let packed = packed(request.headers())?;
    let kind =
        request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
    let written = if kind.starts_with("multipart/form-data") {
        if packed {
            return Err(AgentError::Invalid(
                "Content-Encoding: gzip is taken with application/octet-stream, not with forms".into(),
            ));
        }
        form(target, &kind, request.into_body()).await?
    } else {
        vec![single(target, request.into_body(), packed).await?]
    };
    Ok(reply::json(StatusCode::OK, &written))
}

/// Whether a body is packed; what cannot be unpacked is refused.
fn packed(headers: &HeaderMap) -> Result<bool, AgentError> {
    match headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity" | b"") => Ok(false),
        Some(b"gzip") => Ok(true),
        Some(_) => Err(AgentError::Invalid(
            "Content-Encoding: `gzip` and `identity` are taken; send the file in one of them".into(),
        )),
    }
}

async fn single(target: Target, mut body: Incoming, packed: bool) -> Result<Written, AgentError> {
    let path = target
        .path
        .ok_or_else(|| AgentError::Invalid("query parameter `path` is missing; name the file to write".into()))?;
    let mut sink = Sink::open(path, target.user, packed).await?;
    while let Some(piece) = next(&mut body).await? {
        if !sink.write(piece).await {
            break;
        }
    }
    sink.close().await
}

async fn form(target: Target, kind: &str, mut body: Incoming) -> Result<Vec<Written>, AgentError> {
    let mut parser = Parser::new(kind)?;
    let mut written = Vec::new();
    let mut sink: Option<Sink> = None;
    loop {
        match parser.next()? {
            Event::More => match next(&mut body).await? {
                Some(piece) => parser.feed(&piece),
                None => return Err(AgentError::Invalid("the form breaks off".into())),
            },
            Event::Part { field, file_name } => {
                if field != "file" {
                    continue;
                }
                if written.len() == FORM_FILES {
                    return Err(AgentError::Invalid(format!(
                        "a form takes at most {FORM_FILES} files; use several requests"
                    )));
                }
                let path = match (&target.path, file_name) {
                    (Some(path), _) => path.clone(),
                    (None, Some(name)) => paths::resolve(&name, &target.user)?,
                    (None, None) => {
                        return Err(AgentError::Invalid(
                            "a `file` field has no file name, and the query no `path`".into(),
                        ));
                    }
                };
                sink = Some(Sink::open(path, target.user.clone(), false).await?);
            }
            Event::Data(piece) => {
                if let Some(open) = &mut sink
                    && !open.write(piece).await
                    && let Some(broken) = sink.take()
                {
                    broken.close().await?;
                }
            }
            Event::EndOfPart => {
                if let Some(open) = sink.take() {
                    written.push(open.close().await?);
                }
            }
            Event::EndOfForm => return Ok(written),
        }
    }
}

/// The next piece of a body.
async fn next(body: &mut Incoming) -> Result<Option<Bytes>, AgentError> {
    loop {
        let frame = timeout(PATIENCE, body.frame())
            .await
            .map_err(|_| AgentError::Invalid("the upload stopped for too long".into()))?;
        match frame {
            None => return Ok(None),
            Some(Err(_)) => return Err(AgentError::Invalid("the upload broke off".into())),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// A file that is being written by a task of its own.
struct Sink {
    path: PathBuf,
    sender: mpsc::Sender<Bytes>,
    writer: JoinHandle<Result<(), AgentError>>,
}

impl Sink {
    async fn open(path: PathBuf, user: User, packed: bool) -> Result<Self, AgentError> {
        let opened = path.clone();
        let file = blocking(move || open(&opened, &user)).await?;
        let (sender, mut receiver) = mpsc::channel::<Bytes>(PIECES);
        let shown = path.clone();
        let writer = tokio::task::spawn_blocking(move || {
            let mut target = Unpacker::new(file, packed);
            let mut write = || -> io::Result<()> {
                while let Some(piece) = receiver.blocking_recv() {
                    target.write(&piece)?;
                }
                target.finish()
            };
            // What the system did not say, the unpacker did.
            write().map_err(|error| match error.raw_os_error() {
                None if packed => AgentError::Invalid("the upload is not the whole gzip that it says it is".into()),
                _ => AgentError::file(&shown, error),
            })
        });
        Ok(Self { path, sender, writer })
    }

    /// `false` when the writer has failed; [`Self::close`] says why.
    async fn write(&mut self, piece: Bytes) -> bool {
        piece.is_empty() || self.sender.send(piece).await.is_ok()
    }

    async fn close(self) -> Result<Written, AgentError> {
        drop(self.sender);
        self.writer.await.map_err(|error| AgentError::io("writing a file", io::Error::other(error)))??;
        Ok(Written {
            name: self.path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            path: self.path.display().to_string(),
            r#type: "file",
        })
    }
}

/// Makes the parents, opens the file empty and gives it to the user.
fn open(path: &Path, user: &User) -> Result<File, AgentError> {
    let failed = |error| AgentError::file(path, error);
    if let Some(parent) = path.parent() {
        directory::make_all(parent, user)?;
    }
    if std::fs::metadata(path).is_ok_and(|found| !found.is_file() && !found.is_dir()) {
        return Err(AgentError::Invalid(format!("`{}` is not an ordinary file", path.display())));
    }
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(failed)?;
    fchown(&file, Some(user.uid), Some(user.gid)).map_err(failed)?;
    Ok(file)
}

/// A file that takes its content as it is, or unpacks it.
enum Unpacker {
    Plain(File),
    Gzip(Box<MultiGzDecoder<File>>),
}

impl Unpacker {
    fn new(file: File, packed: bool) -> Self {
        if packed { Self::Gzip(Box::new(MultiGzDecoder::new(file))) } else { Self::Plain(file) }
    }

    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(file) => file.write_all(piece),
            Self::Gzip(unpacker) => unpacker.write_all(piece),
        }
    }

    /// Fails when the packed content breaks off.
    fn finish(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Gzip(unpacker) => unpacker.try_finish(),
        }
    }
}
