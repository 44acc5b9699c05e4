//! Contents of files: streamed in both directions, never held whole.
//!
//! How it works: an upload is any stream of pieces; a download is read piece by piece, under a deadline for each and
//! one for the whole.
//!
//! Deliberately absent: resuming; ranges let callers do that.

use std::io;

use bytes::Bytes;
use futures_util::Stream;
use http::header;
use http_body_util::{BodyExt, Full, StreamBody};
use serde::Deserialize;
use tokio::{
    io::AsyncRead,
    time::{Instant, timeout_at},
};
use tokio_util::io::ReaderStream;

use crate::{
    GuestError, Limits, Phase,
    http1::{Exchange, RequestBody},
};

/// How much of a reader is taken at once.
const CHUNK: usize = 64 * 1024;

/// What is to be written into a file.
pub struct FileBody(pub(crate) RequestBody);

impl FileBody {
    /// Bytes that are in memory already.
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        Self(Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync())
    }

    /// Pieces as they come.
    pub fn stream(stream: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Self {
        use futures_util::StreamExt;
        let frames = stream.map(|piece| piece.map(http_body::Frame::data));
        Self(BodyExt::boxed_unsync(StreamBody::new(frames)))
    }

    /// A reader, to its end.
    pub fn reader(reader: impl AsyncRead + Send + 'static) -> Self {
        Self::stream(ReaderStream::with_capacity(reader, CHUNK))
    }
}

impl std::fmt::Debug for FileBody {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("FileBody(…)")
    }
}

/// A part of a file: from `start` up to and including `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadRange {
    /// The first byte.
    pub start: u64,
    /// The last byte; `None` is the end of the file.
    pub last: Option<u64>,
}

/// A file that is being read out of the guest.
pub struct FileReader {
    exchange: Exchange,
    limits: Limits,
    size: Option<u64>,
    until: Instant,
}

impl FileReader {
    pub(crate) fn new(exchange: Exchange, limits: Limits) -> Self {
        let size = exchange
            .response
            .headers()
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.parse().ok());
        Self { exchange, until: Instant::now() + limits.transfer, limits, size }
    }

    /// How many bytes will come, when the agent said so.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// Whether only the asked part comes (and not the whole file).
    pub fn is_partial(&self) -> bool {
        self.exchange.response.status() == http::StatusCode::PARTIAL_CONTENT
    }

    /// `Content-Range` of a part, as the agent said it.
    pub fn content_range(&self) -> Option<&str> {
        self.exchange.response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok())
    }

    /// What tells this content from an older one of the same file, as the agent said it.
    pub fn etag(&self) -> Option<&str> {
        self.exchange.response.headers().get(header::ETAG).and_then(|value| value.to_str().ok())
    }

    /// The next piece, `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, GuestError> {
        let piece = self.exchange.next_data(&self.limits, self.limits.idle);
        timeout_at(self.until, piece)
            .await
            .map_err(|_| GuestError::Timeout { phase: Phase::Body, after: self.limits.transfer })?
    }

    /// Reads what is left, refusing more than `limit` bytes.
    pub async fn read_to_end(mut self, limit: usize) -> Result<Bytes, GuestError> {
        let mut all = bytes::BytesMut::new();
        while let Some(piece) = self.next().await? {
            if all.len() + piece.len() > limit {
                return Err(GuestError::TooLarge { what: "file", limit });
            }
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }

    /// The rest as a stream of pieces.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, GuestError>> + Send {
        futures_util::stream::try_unfold(self, |mut reader| async move {
            Ok(reader.next().await?.map(|piece| (piece, reader)))
        })
    }
}

impl std::fmt::Debug for FileReader {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("FileReader").field("size", &self.size).finish_non_exhaustive()
    }
}

/// What the agent wrote.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
pub struct WrittenFile {
    /// Its absolute path in the guest.
    pub path: String,
    /// The last part of it.
    pub name: String,
}
