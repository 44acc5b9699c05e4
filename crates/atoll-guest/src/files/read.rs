//! `GET /files`: the whole of a file, or one range of it.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::UNIX_EPOCH,
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures_util::Stream;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::StreamBody;
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::{PIECE, PIECES, range, target};
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
    let (file, size, modified) = blocking(move || open(&opened)).await?;
    let wanted = request.headers().get(header::RANGE).and_then(|value| value.to_str().ok());
    // Files of the kernel claim to be empty; they are read to their end.
    let length = (size > 0).then_some(size);
    let part = match length {
        Some(size) => range::parse(wanted, size),
        None => range::Range::Whole,
    };
    // A part is of the file, not of its compressed form.
    let packed = part == range::Range::Whole && wants_gzip(request.headers());
    let (status, start, length) = match part {
        range::Range::Whole => (StatusCode::OK, 0, length),
        range::Range::Part { start, last } => (StatusCode::PARTIAL_CONTENT, start, Some(last - start + 1)),
        range::Range::Outside => {
            let mut reply = empty(StatusCode::RANGE_NOT_SATISFIABLE);
            put(&mut reply, header::CONTENT_RANGE, &format!("bytes */{size}"));
            return Ok(reply);
        }
    };
    let body = if request.method() == Method::HEAD {
        Body::full(Bytes::new())
    } else {
        Body::new(StreamBody::new(pieces(file, start, length, packed)))
    };
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    put(&mut reply, header::CONTENT_TYPE, "application/octet-stream");
    put(&mut reply, header::ACCEPT_RANGES, "bytes");
    put(&mut reply, header::ETAG, &format!("\"{modified:x}-{size:x}\""));
    put(&mut reply, header::CONTENT_DISPOSITION, &disposition(&path));
    if packed {
        put(&mut reply, header::CONTENT_ENCODING, "gzip");
        put(&mut reply, header::VARY, "Accept-Encoding");
    } else if let Some(length) = length {
        put(&mut reply, header::CONTENT_LENGTH, &length.to_string());
    }
    if status == StatusCode::PARTIAL_CONTENT
        && let Some(length) = length
    {
        let last = start + length - 1;
        let text = format!("bytes {start}-{last}/{size}");
        put(&mut reply, header::CONTENT_RANGE, &text);
    }
    Ok(reply)
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
fn open(path: &Path) -> Result<(File, u64, u128), AgentError> {
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
    let modified = metadata
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .map_or(0, |since| since.as_nanos());
    Ok((file, metadata.len(), modified))
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
    let mut left = length.unwrap_or(u64::MAX);
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let mut piece = Vec::with_capacity(wanted);
        let read = (&mut file).take(wanted as u64).read_to_end(&mut piece)?;
        if read == 0 {
            if length.is_some() {
                let shorter = "the file became shorter while it was read";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, shorter));
            }
            return Ok(());
        }
        left -= read as u64;
        if sender.blocking_send(Ok(piece.into())).is_err() {
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
