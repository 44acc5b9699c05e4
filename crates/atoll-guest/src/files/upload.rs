//! The body of an upload: its pieces, unpacked where the whole body is packed.
//!
//! How it works: pieces come with a deadline each; a packed body is unpacked in small steps, so that little can become
//! much only as fast as it is written. A refused upload is drained for a while, so that its sender hears why.
//!
//! Deliberately absent: writing (`write.rs`).

use std::{io::Write, time::Duration};

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::error::AgentError;

/// How long the next piece of an upload may take.
const PATIENCE: Duration = Duration::from_mins(2);
/// How long a refused upload may go on so that its sender hears the refusal.
const DRAIN: Duration = Duration::from_secs(30);
/// How much is unpacked at once. It grows a thousandfold at most.
const PACKED_PIECE: usize = 1024;

/// A body that is being read.
pub(super) struct Upload {
    body: Incoming,
    unpacker: Option<MultiGzDecoder<Vec<u8>>>,
    packed: Bytes,
}

impl Upload {
    /// A body as it comes.
    pub(super) fn new(body: Incoming) -> Self {
        Self { body, unpacker: None, packed: Bytes::new() }
    }

    /// From now on the body is unpacked here.
    pub(super) fn unpack(&mut self) {
        self.unpacker = Some(MultiGzDecoder::new(Vec::new()));
    }

    /// The next piece; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, AgentError> {
        loop {
            if let Some(piece) = self.unpacked()? {
                return Ok(Some(piece));
            }
            match (self.receive().await?, &mut self.unpacker) {
                (piece, None) => return Ok(piece),
                (Some(piece), Some(_)) => self.packed = piece,
                (None, Some(unpacker)) => {
                    unpacker.try_finish().map_err(|_| not_packed())?;
                    let rest = std::mem::take(unpacker.get_mut());
                    return Ok((!rest.is_empty()).then(|| rest.into()));
                }
            }
        }
    }

    /// Unpacks until something comes of it; `None` when more is needed.
    fn unpacked(&mut self) -> Result<Option<Bytes>, AgentError> {
        let Some(unpacker) = &mut self.unpacker else {
            return Ok(None);
        };
        while !self.packed.is_empty() {
            let piece = self.packed.split_to(self.packed.len().min(PACKED_PIECE));
            unpacker.write_all(&piece).map_err(|_| not_packed())?;
            if !unpacker.get_ref().is_empty() {
                return Ok(Some(std::mem::take(unpacker.get_mut()).into()));
            }
        }
        Ok(None)
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, AgentError> {
        loop {
            let frame = timeout(PATIENCE, self.body.frame())
                .await
                .map_err(|_| AgentError::Invalid("the upload stopped for too long".into()))?;
            match frame {
                None => return Ok(None),
                Some(Err(_)) => return Err(AgentError::Invalid("the upload broke off".into())),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Ok(Some(data)),
                    _ => {}
                },
            }
        }
    }

    /// Takes what still comes and throws it away. A connection that is closed with unread data is
    /// reset, and the answer that was on its way is lost with it.
    pub(super) async fn drain(mut self) {
        // At the deadline the connection is closed after all.
        let _ = timeout(DRAIN, async { while let Some(Ok(_)) = self.body.frame().await {} }).await;
    }
}

/// What an upload is that does not unpack.
pub(super) fn not_packed() -> AgentError {
    AgentError::Invalid("the upload is not the whole gzip that it says it is".into())
}
