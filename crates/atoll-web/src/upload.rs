//! Files on their way into a sandbox, out of a `multipart/form-data` body.
//!
//! How it works: the parts are read as they come and handed on through a short queue, so that nothing is held whole and a slow guest slows
//! its client. `path` comes before `file`; a `file` of at most 1 MiB may come first and waits for it. What the parser holds is bounded by
//! counting: bytes that came in and have not come out again.
//!
//! Deliberately absent: more than one file in a body.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use atoll_api::FieldError;
use atoll_control::Control;
use atoll_domain::Principal;
use atoll_guest_client::FileBody;
use axum::body::{Body, BodyDataStream};
use axum::extract::multipart::{Field, Multipart};
use axum::extract::{FromRequest as _, Request};
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::error::WebError;
use crate::extract;

/// Largest body that is not a stream.
pub(crate) const FILE_CAP: u64 = 100 * 1024 * 1024;
/// Largest body that is one: what the largest disk of a sandbox holds.
pub(crate) const STREAM_CAP: u64 = 1024 * 1024 * 1024 * 1024;
/// Most of a file that waits for its path.
const EARLY_CAP: usize = 1024 * 1024;
/// Most bytes of a part that is no file.
const TEXT_CAP: usize = 8 * 1024;
/// Most bytes inside the parser: its own buffer and the heads of parts.
const HELD_CAP: u64 = 4 * 1024 * 1024;
/// How long a body may stand still.
const IDLE: Duration = Duration::from_secs(60);
/// Pieces on their way to the guest.
const QUEUE: usize = 4;

/// What is known about a body while it comes.
#[derive(Debug, Default)]
struct Counts {
    came: AtomicU64,
    went: AtomicU64,
    too_large: AtomicBool,
    slow: AtomicBool,
}

impl Counts {
    fn out(&self, piece: &Bytes) {
        self.went.fetch_add(piece.len() as u64, Ordering::Relaxed);
    }

    /// Why a body could not be parsed; the parser itself only knows that it ended.
    fn why(&self, cap: u64, otherwise: impl FnOnce() -> WebError) -> WebError {
        if self.too_large.load(Ordering::Relaxed) {
            WebError::TooLarge { what: "the body", limit: cap }
        } else if self.slow.load(Ordering::Relaxed) {
            WebError::SlowBody
        } else {
            otherwise()
        }
    }
}

/// Writes the file in a multipart body of at most `cap` bytes.
pub(crate) async fn write(
    control: &Control,
    principal: &Principal,
    id: &str,
    request: Request,
    cap: u64,
) -> Result<(), WebError> {
    let counts = Arc::new(Counts::default());
    let (parts, body) = request.into_parts();
    let (kept, body) = lend(body.into_data_stream());
    let body = Body::from_stream(counted(body, Arc::clone(&counts), cap));
    let mut multipart = Multipart::from_request(Request::from_parts(parts, body), &())
        .await
        .map_err(|_| WebError::UnsupportedMediaType("send multipart/form-data with the parts `path` and `file`"))?;
    let mut form = Form { counts: &counts, cap, control, principal, id, path: None, early: None, written: false };
    let done = form.read(&mut multipart).await;
    drop(multipart);
    if done.is_err() {
        // The client reads the answer only once it has sent its body, or most of it.
        if let Some(rest) = kept.take() {
            extract::drain(rest).await;
        }
    }
    done
}

/// The body while a form is read; what is left of it comes back when the reader is dropped.
type Kept = Arc<std::sync::Mutex<Option<BodyDataStream>>>;

struct Lent {
    home: Kept,
    body: Option<BodyDataStream>,
}

struct Loan(Kept);

impl Loan {
    fn take(&self) -> Option<BodyDataStream> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        *self.home.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = self.body.take();
    }
}

fn lend(body: BodyDataStream) -> (Loan, Lent) {
    let home = Kept::default();
    (Loan(Arc::clone(&home)), Lent { home, body: Some(body) })
}

/// The body, as long as it is small enough, moves, and comes out of the parser again.
fn counted(body: Lent, counts: Arc<Counts>, cap: u64) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::unfold((body, counts), move |(mut lent, counts)| async move {
        let next = timeout(IDLE, lent.body.as_mut()?.next()).await;
        let piece = match next {
            Err(_) => {
                counts.slow.store(true, Ordering::Relaxed);
                Err(io::ErrorKind::TimedOut.into())
            }
            Ok(None) => return None,
            Ok(Some(Err(error))) => Err(io::Error::other(error)),
            Ok(Some(Ok(piece))) => {
                let came = counts.came.fetch_add(piece.len() as u64, Ordering::Relaxed) + piece.len() as u64;
                if came > cap {
                    counts.too_large.store(true, Ordering::Relaxed);
                    Err(io::ErrorKind::FileTooLarge.into())
                } else if came.saturating_sub(counts.went.load(Ordering::Relaxed)) > HELD_CAP {
                    Err(io::Error::other("a part's head without an end"))
                } else {
                    Ok(piece)
                }
            }
        };
        Some((piece, (lent, counts)))
    })
}

fn field(pointer: &str, code: &str, detail: &str) -> WebError {
    WebError::Field(FieldError {
        pointer: pointer.into(),
        code: code.into(),
        detail: detail.into(),
        min: None,
        max: None,
    })
}

/// A form that is being read.
struct Form<'a> {
    counts: &'a Counts,
    cap: u64,
    control: &'a Control,
    principal: &'a Principal,
    id: &'a str,
    path: Option<String>,
    early: Option<Bytes>,
    written: bool,
}

impl Form<'_> {
    async fn read(&mut self, multipart: &mut Multipart) -> Result<(), WebError> {
        loop {
            let part = multipart.next_field().await;
            let part = part.map_err(|error| self.counts.why(self.cap, || WebError::Malformed(error.body_text())))?;
            let Some(part) = part else { break };
            match part.name() {
                Some("path") => self.path = Some(self.text(part).await?),
                Some("file") if self.written || self.early.is_some() => {
                    return Err(field("/file", "malformed", "one `file` part in a body"));
                }
                Some("file") => self.file(part).await?,
                Some(name) => {
                    let name: String = name.chars().take(64).collect();
                    return Err(field(&format!("/{name}"), "unknown", "the parts are `path` and `file`"));
                }
                None => return Err(WebError::Malformed("a part without a name".into())),
            }
        }
        match (&self.path, self.early.take()) {
            (None, _) => Err(field("/path", "required", "name a path in the sandbox")),
            (Some(path), Some(bytes)) => {
                Ok(self.control.write_file(self.principal, self.id, path, FileBody::bytes(bytes)).await?)
            }
            (Some(_), None) if self.written => Ok(()),
            (Some(_), None) => Err(field("/file", "required", "send the contents as the part `file`")),
        }
    }

    async fn text(&self, mut part: Field<'_>) -> Result<String, WebError> {
        let mut all = BytesMut::new();
        while let Some(piece) = self.piece(&mut part).await? {
            if all.len() + piece.len() > TEXT_CAP {
                return Err(field("/path", "out_of_range", "a path has at most 4096 bytes"));
            }
            all.extend_from_slice(&piece);
        }
        String::from_utf8(all.into()).map_err(|_| field("/path", "malformed", "a path is UTF-8 here"))
    }

    async fn piece(&self, part: &mut Field<'_>) -> Result<Option<Bytes>, WebError> {
        let piece = part.chunk().await;
        let piece = piece.map_err(|error| self.counts.why(self.cap, || WebError::Malformed(error.body_text())))?;
        if let Some(piece) = &piece {
            self.counts.out(piece);
        }
        Ok(piece)
    }

    async fn file(&mut self, part: Field<'_>) -> Result<(), WebError> {
        match self.path.clone() {
            Some(path) => self.forward(&path, part).await,
            None => self.keep(part).await,
        }
    }

    /// A file before its path: kept while it is small.
    async fn keep(&mut self, mut part: Field<'_>) -> Result<(), WebError> {
        let mut all = BytesMut::new();
        while let Some(piece) = self.piece(&mut part).await? {
            if all.len() + piece.len() > EARLY_CAP {
                return Err(field("/path", "required", "send the part `path` before a `file` of more than 1 MiB"));
            }
            all.extend_from_slice(&piece);
        }
        self.early = Some(all.freeze());
        Ok(())
    }

    /// A file whose path is known: handed on as it comes.
    async fn forward(&mut self, path: &str, mut part: Field<'_>) -> Result<(), WebError> {
        let (send, receive) = mpsc::channel::<io::Result<Bytes>>(QUEUE);
        let body = FileBody::stream(stream::unfold(receive, |mut receive| async move {
            receive.recv().await.map(|piece| (piece, receive))
        }));
        // It owns the sender, whose end is the body's end.
        let feed = async {
            let send = send;
            loop {
                match self.piece(&mut part).await {
                    Ok(Some(piece)) => {
                        if send.send(Ok(piece)).await.is_err() {
                            // The guest has had enough: what it says about it is the answer.
                            break Ok(());
                        }
                    }
                    Ok(None) => break Ok(()),
                    Err(error) => {
                        // A writer that is gone already does not need to know.
                        let _ = send.send(Err(io::ErrorKind::UnexpectedEof.into())).await;
                        break Err(error);
                    }
                }
            }
        };
        let write = self.control.write_file(self.principal, self.id, path, body);
        let (fed, written) = tokio::join!(feed, write);
        fed?;
        written?;
        self.written = true;
        Ok(())
    }
}
