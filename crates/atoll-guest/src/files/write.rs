//! `POST /files`: one file as the body itself, or several in a form.
//!
//! How it works: written in place, not beside and renamed: whoever watches the directory sees CREATE, CHMOD and WRITE
//! and nothing else.
//!
//! Deliberately absent: taking back: an upload that breaks off leaves what has come.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, fchown},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header, request::Parts};
use hyper::body::Incoming;
use serde::Serialize;
use tokio::{sync::mpsc, task::JoinHandle};

use super::{
    PIECES, Target,
    multipart::{Event, Parser},
    read::blocking,
    target,
    upload::{Upload, not_packed},
};
use crate::{
    error::AgentError,
    filesystem::directory,
    http::{
        App,
        reply::{self, Reply},
    },
    metadata::{self, Metadata},
    paths,
    users::User,
};

/// How many files one form may hold.
const FORM_FILES: usize = 4096;

/// A file that was written, as the wire tells it.
#[derive(Serialize)]
struct Written {
    path: String,
    name: String,
    r#type: &'static str,
    #[serde(skip_serializing_if = "Metadata::is_empty")]
    metadata: Metadata,
}

/// Answers an upload.
pub(crate) async fn write(app: &App, request: Request<Incoming>) -> Result<Reply, AgentError> {
    let (parts, body) = request.into_parts();
    let mut upload = Upload::new(body);
    let written = receive(app, &parts, &mut upload).await;
    if written.is_err() {
        app.table.tasks.spawn(upload.drain());
    }
    Ok(reply::json(StatusCode::OK, &written?))
}

async fn receive(app: &App, parts: &Parts, upload: &mut Upload) -> Result<Vec<Written>, AgentError> {
    let target = target(app, &parts.uri, &parts.headers, "write")?;
    let packed = packed(&parts.headers)?;
    let metadata = metadata::of_headers(&parts.headers)?;
    let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    if kind.starts_with("multipart/form-data") {
        if packed {
            upload.unpack();
        }
        form(target, kind, &metadata, upload).await
    } else {
        Ok(vec![single(target, metadata, upload, packed).await?])
    }
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

async fn single(target: Target, metadata: Metadata, upload: &mut Upload, packed: bool) -> Result<Written, AgentError> {
    let path = target
        .path
        .ok_or_else(|| AgentError::Invalid("query parameter `path` is missing; name the file to write".into()))?;
    let mut sink = Sink::open(path, target.user, metadata, packed).await?;
    while let Some(piece) = upload.next().await? {
        if !sink.write(piece).await {
            break;
        }
    }
    sink.close().await
}

async fn form(
    target: Target,
    kind: &str,
    metadata: &Metadata,
    upload: &mut Upload,
) -> Result<Vec<Written>, AgentError> {
    let mut parser = Parser::new(kind)?;
    let mut written = Vec::new();
    let mut sink: Option<Sink> = None;
    loop {
        match parser.next()? {
            Event::More => match upload.next().await? {
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
                sink = Some(Sink::open(path, target.user.clone(), metadata.clone(), false).await?);
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

/// A file that is being written by a task of its own.
struct Sink {
    path: PathBuf,
    metadata: Metadata,
    sender: mpsc::Sender<Bytes>,
    writer: JoinHandle<Result<(), AgentError>>,
}

impl Sink {
    async fn open(path: PathBuf, user: User, metadata: Metadata, packed: bool) -> Result<Self, AgentError> {
        let (opened, noted) = (path.clone(), metadata.clone());
        let file = blocking(move || open(&opened, &user, &noted)).await?;
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
                None if packed => not_packed(),
                _ => AgentError::file(&shown, error),
            })
        });
        Ok(Self { path, metadata, sender, writer })
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
            metadata: self.metadata,
        })
    }
}

/// Makes the parents, opens the file empty, gives it to the user and notes what is noted about it.
fn open(path: &Path, user: &User, metadata: &Metadata) -> Result<File, AgentError> {
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
    match metadata::replace(&file, metadata) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Err(AgentError::Invalid(format!(
            "the file system of `{}` keeps no metadata; write it elsewhere or without",
            path.display()
        ))),
        result => result.map(|()| file).map_err(failed),
    }
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
