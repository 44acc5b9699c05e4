//! `GET /files`: the whole of a file, or one range of it.
//!
//! How it works: the file is opened where that may block, conditions and range are judged, and its content is read
//! ahead of the wire by a few pieces; a short file leaves in one.
//!
//! Deliberately absent: devices and pipes: they would block or never end.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures_util::Stream;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::StreamBody;
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::{
    PIECE, PIECES,
    buffers::Buffers,
    conditions::{self, Verdict},
    range::{self, Range},
    target,
};
use crate::{
    error::AgentError,
    http::{
        App,
        reply::{Body, Reply, empty},
    },
};

/// Answers a download.
pub(crate) async fn read(app: &App, request: Request<Incoming>) -> Result<Reply, AgentError> {
    let target = target(app, request.uri(), request.headers(), "read")?;
    let path =
        target.path.ok_or_else(|| AgentError::Invalid("query parameter `path` is missing; name a file".into()))?;
    let opened = path.clone();
    let found = blocking(move || open(&opened)).await?;
    let headers = request.headers();
    let packed = wants_gzip(headers);
    let verdict = conditions::judge(headers, &found.tag(packed), found.modified());
    match verdict {
        Verdict::NotModified => return Ok(described(empty(StatusCode::NOT_MODIFIED), &found, packed)),
        Verdict::Failed => return Ok(empty(StatusCode::PRECONDITION_FAILED)),
        Verdict::Send | Verdict::SendWhole => {}
    }
    let wanted = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    let part = match found.length() {
        Some(size) if verdict == Verdict::Send => range::parse(wanted, size),
        _ => Range::Whole,
    };
    let head = request.method() == Method::HEAD;
    let mut reply = match part {
        Range::Outside => {
            let mut reply = empty(StatusCode::RANGE_NOT_SATISFIABLE);
            put(&mut reply, header::CONTENT_RANGE, &format!("bytes */{}", found.size));
            return Ok(reply);
        }
        Range::Whole => whole(found, packed, head),
        // A part is of the file, not of its compressed form.
        Range::Part { start, last } => piece(found, start, last, head),
    };
    put(&mut reply, header::CONTENT_TYPE, "application/octet-stream");
    put(&mut reply, header::ACCEPT_RANGES, "bytes");
    put(&mut reply, header::CONTENT_DISPOSITION, &disposition(&path));
    Ok(reply)
}

/// A file that was opened.
struct Found {
    file: File,
    size: u64,
    /// Since 1970 UTC.
    modified: Duration,
    /// All of it, when it is short: what is told of its size then holds, whoever writes to it
    /// meanwhile, and head and content leave in one piece.
    content: Option<Bytes>,
}

impl Found {
    /// Files of the kernel claim to be empty; they are read to their end.
    fn length(&self) -> Option<u64> {
        (self.size > 0 || self.content.is_some()).then_some(self.size)
    }

    fn body(self, start: u64, length: Option<u64>, packed: bool) -> Body {
        let short = self.content.filter(|_| !packed).and_then(|content| {
            let start = usize::try_from(start).ok()?;
            let end = usize::try_from(length?).ok()?.checked_add(start)?;
            (end <= content.len()).then(|| content.slice(start..end))
        });
        match short {
            Some(content) => Body::full(content),
            None => Body::new(StreamBody::new(pieces(self.file, start, length, packed))),
        }
    }

    /// The entity tag: content with another coding is another entity.
    fn tag(&self, packed: bool) -> String {
        let coding = if packed { "-gzip" } else { "" };
        format!("\"{:x}-{:x}{coding}\"", self.modified.as_nanos(), self.size)
    }

    /// In whole seconds, as headers carry it.
    fn modified(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.modified.as_secs())
    }
}

fn described(mut reply: Reply, found: &Found, packed: bool) -> Reply {
    put(&mut reply, header::ETAG, &found.tag(packed));
    put(&mut reply, header::LAST_MODIFIED, &httpdate::fmt_http_date(found.modified()));
    put(&mut reply, header::VARY, "Accept-Encoding");
    reply
}

fn whole(found: Found, packed: bool, head: bool) -> Reply {
    let length = found.length();
    let mut reply = described(empty(StatusCode::OK), &found, packed);
    if packed {
        put(&mut reply, header::CONTENT_ENCODING, "gzip");
    } else if let Some(length) = length {
        put(&mut reply, header::CONTENT_LENGTH, &length.to_string());
    }
    if !head {
        *reply.body_mut() = found.body(0, length, packed);
    }
    reply
}

fn piece(found: Found, start: u64, last: u64, head: bool) -> Reply {
    let length = last - start + 1;
    let mut reply = described(empty(StatusCode::PARTIAL_CONTENT), &found, false);
    put(&mut reply, header::CONTENT_LENGTH, &length.to_string());
    put(&mut reply, header::CONTENT_RANGE, &format!("bytes {start}-{last}/{}", found.size));
    if !head {
        *reply.body_mut() = found.body(start, Some(length), false);
    }
    reply
}

/// Only who asks for gzip by name gets it: packing is dear in a guest.
fn wants_gzip(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|coding| {
            let mut parts = coding.split(';').map(str::trim);
            let name = parts.next()?;
            let refused = parts.any(|part| matches!(part, "q=0" | "q=0.0" | "q=0.00" | "q=0.000"));
            (!refused).then_some(name)
        })
        .any(|name| name.eq_ignore_ascii_case("gzip"))
}

fn put(reply: &mut Reply, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        reply.headers_mut().insert(name, value);
    }
}

fn disposition(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let encoded = percent_encoding::utf8_percent_encode(&name, percent_encoding::NON_ALPHANUMERIC);
    format!("inline; filename*=UTF-8''{encoded}")
}

/// Opens an ordinary file; a pipe or device would block or never end.
fn open(path: &Path) -> Result<Found, AgentError> {
    let failed = |error| AgentError::file(path, error);
    let file =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if metadata.is_dir() {
        return Err(AgentError::IsDirectory(path.display().to_string()));
    }
    if !metadata.is_file() {
        return Err(AgentError::Invalid(format!("`{}` is not an ordinary file", path.display())));
    }
    let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let (size, content) = match short(&file, metadata.len()).map_err(failed)? {
        Some(content) => (content.len() as u64, Some(content)),
        None => (metadata.len(), None),
    };
    Ok(Found { file, size, modified, content })
}

/// The content of a file that fits into one piece. Files of the kernel claim to be empty and may
/// be of any length, or never end: they are not read here.
fn short(file: &File, size: u64) -> io::Result<Option<Bytes>> {
    if size == 0 || size > PIECE as u64 {
        return Ok(None);
    }
    let mut content = vec![0; usize::try_from(size).unwrap_or(PIECE) + 1];
    let mut length = 0;
    // At places, so that the file itself stays at its beginning.
    while length < content.len() {
        match file.read_at(&mut content[length..], length as u64)? {
            0 => break,
            read => length += read,
        }
    }
    // One that has grown meanwhile is read as a long one.
    content.truncate(length);
    Ok((length as u64 <= size).then(|| content.into()))
}

/// The pieces of a file. The reading task ends when nobody takes them any more.
fn pieces(
    file: File,
    start: u64,
    length: Option<u64>,
    packed: bool,
) -> impl Stream<Item = Result<http_body::Frame<Bytes>, io::Error>> + Send {
    let (sender, receiver) = mpsc::channel(PIECES);
    tokio::task::spawn_blocking(move || {
        let sent = if packed { send_packed(file, &sender) } else { send_pieces(file, start, length, &sender) };
        if let Err(error) = sent {
            // The connection breaks off, so that nobody takes a part for the whole.
            let _ = sender.blocking_send(Err(error));
        }
    });
    futures_util::stream::unfold(receiver, |mut receiver| async move {
        let piece: Result<Bytes, io::Error> = receiver.recv().await?;
        Some((piece.map(http_body::Frame::data), receiver))
    })
}

fn send_pieces(
    mut file: File,
    start: u64,
    length: Option<u64>,
    sender: &mpsc::Sender<Result<Bytes, io::Error>>,
) -> io::Result<()> {
    if start > 0 {
        file.seek(SeekFrom::Start(start))?;
    }
    let buffers = Buffers::new();
    let mut left = length.unwrap_or(u64::MAX);
    while left > 0 {
        let piece = buffers.read(&mut file, usize::try_from(left).unwrap_or(usize::MAX))?;
        if piece.is_empty() {
            if length.is_some() {
                let shorter = "the file became shorter while it was read";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, shorter));
            }
            return Ok(());
        }
        left -= piece.len() as u64;
        if sender.blocking_send(Ok(piece)).is_err() {
            return Ok(());
        }
    }
    Ok(())
}

fn send_packed(mut file: File, sender: &mpsc::Sender<Result<Bytes, io::Error>>) -> io::Result<()> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
    let mut buffer = vec![0; PIECE];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        packer.write_all(&buffer[..read])?;
        if packer.get_ref().len() >= PIECE / 4
            && sender.blocking_send(Ok(std::mem::take(packer.get_mut()).into())).is_err()
        {
            return Ok(());
        }
    }
    // Nobody may be there any more to take the rest.
    let _ = sender.blocking_send(Ok(packer.finish()?.into()));
    Ok(())
}

/// Runs file calls where they may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, AgentError> + Send + 'static,
) -> Result<T, AgentError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| AgentError::io("a file call", io::Error::other(error)))?
}
