//! The Connect protocol with binary messages: one answer, or a stream of envelopes.
//!
//! How it works: an envelope is a flag byte, a length of four bytes (big-endian) and that many bytes. Flag 2 marks the
//! last one, which holds JSON: nothing, or an error. Messages are decoded within bounds on memory, depth and unknown
//! fields.
//!
//! Deliberately absent: compression: a frame that says it is compressed is refused.

use buffa::Message;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use crate::{Code, GuestError, Limits, Reason, http1::Exchange};

/// Header and metadata name of the agent's own reason.
const REASON: &str = "atoll-reason";
/// How much of the agent's words an error keeps, in bytes.
const MESSAGE_LIMIT: usize = 2048;
/// How large the JSON of an error may be.
const ERROR_LIMIT: usize = 64 * 1024;
const COMPRESSED: u8 = 1;
const END: u8 = 2;

#[derive(Deserialize)]
struct WireError {
    #[serde(default)]
    code: serde_json::Value,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct EndOfStream {
    error: Option<WireError>,
    metadata: std::collections::BTreeMap<String, Vec<String>>,
}

/// Wraps one message for a stream.
pub(crate) fn envelope(message: &impl Message) -> Result<Bytes, GuestError> {
    let message = encode(message)?;
    let length =
        u32::try_from(message.len()).map_err(|_| GuestError::TooLarge { what: "request", limit: u32::MAX as usize })?;
    let mut bytes = BytesMut::with_capacity(5 + message.len());
    bytes.put_u8(0);
    bytes.put_u32(length);
    bytes.put_slice(&message);
    Ok(bytes.freeze())
}

/// Encodes one message.
pub(crate) fn encode(message: &impl Message) -> Result<Bytes, GuestError> {
    message.try_encode_to_bytes().map_err(|error| GuestError::protocol(format!("a request cannot be encoded: {error}")))
}

/// How much memory the lists of one message may take: an empty element is two bytes on the wire
/// and a whole structure here.
const ELEMENTS: usize = 16 << 20;
/// How many fields that this version does not know one message may hold.
const UNKNOWN_FIELDS: usize = 10_000;
/// How deep messages may lie in each other.
const DEPTH: u32 = 16;

/// Decodes one message of a guest.
pub(crate) fn decode<M: Message>(bytes: &[u8]) -> Result<M, GuestError> {
    buffa::DecodeOptions::new()
        .with_recursion_limit(DEPTH)
        .with_unknown_field_limit(UNKNOWN_FIELDS)
        .with_element_memory_limit(ELEMENTS)
        .decode_from_slice(bytes)
        .map_err(|error| GuestError::protocol(format!("a message that does not decode: {error}")))
}

/// Reads the answer of a call without a stream.
pub(crate) async fn unary<M: Message>(mut exchange: Exchange, limits: &Limits) -> Result<M, GuestError> {
    expect_ok(&mut exchange, limits).await?;
    expect_type(&exchange, "application/proto")?;
    let body = exchange.read_body(limits, limits.body_bytes).await?;
    decode(&body)
}

/// Turns an answer that is not a success into its error.
pub(crate) async fn expect_ok(exchange: &mut Exchange, limits: &Limits) -> Result<(), GuestError> {
    let status = exchange.response.status();
    if status.is_success() {
        return Ok(());
    }
    let reason = reason_in(exchange.response.headers());
    let body = exchange.read_body(limits, ERROR_LIMIT).await?;
    Err(rejected_by_status(status, reason, &body))
}

fn rejected_by_status(status: StatusCode, reason: Option<Reason>, body: &[u8]) -> GuestError {
    let parsed: Option<WireError> = serde_json::from_slice(body).ok();
    let code =
        parsed.as_ref().and_then(|error| error.code.as_str()).map_or_else(|| Code::of_status(status), Code::parse);
    let message = parsed
        .map(|error| error.message)
        .filter(|message| !message.is_empty())
        .unwrap_or_else(|| format!("the guest agent answered {}", status.as_u16()));
    GuestError::Rejected { code, reason, message: shorten(message) }
}

/// Checks that an answer is of the type that was asked for.
pub(crate) fn expect_type(exchange: &Exchange, wanted: &str) -> Result<(), GuestError> {
    let found =
        exchange.response.headers().get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    if found.split(';').next().unwrap_or("").trim() == wanted {
        Ok(())
    } else {
        Err(GuestError::protocol(format!("an answer that is not {wanted}")))
    }
}

fn reason_in(headers: &HeaderMap) -> Option<Reason> {
    headers.get(REASON).and_then(|value| value.to_str().ok()).and_then(Reason::parse)
}

/// Cuts a guest's words to a bounded length.
pub(crate) fn shorten(mut message: String) -> String {
    if message.len() > MESSAGE_LIMIT {
        let mut end = MESSAGE_LIMIT;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push('…');
    }
    message
}

/// The envelopes of one answer.
pub(crate) struct Envelopes {
    exchange: Exchange,
    buffer: BytesMut,
    reason: Option<Reason>,
    ended: bool,
}

impl Envelopes {
    /// Takes over an answer, once its head says that it is a stream.
    pub(crate) async fn new(mut exchange: Exchange, limits: &Limits) -> Result<Self, GuestError> {
        expect_ok(&mut exchange, limits).await?;
        expect_type(&exchange, "application/connect+proto")?;
        let reason = reason_in(exchange.response.headers());
        Ok(Self { exchange, buffer: BytesMut::new(), reason, ended: false })
    }

    /// The next message, `None` after the end of a stream without an error.
    pub(crate) async fn next<M: Message>(
        &mut self,
        limits: &Limits,
        idle: std::time::Duration,
    ) -> Result<Option<M>, GuestError> {
        loop {
            if self.ended {
                return Ok(None);
            }
            if let Some((flags, payload)) = self.take_frame(limits)? {
                if flags & COMPRESSED != 0 {
                    return Err(GuestError::protocol("a compressed frame"));
                }
                if flags & END != 0 {
                    self.ended = true;
                    self.end(&payload)?;
                    return Ok(None);
                }
                return decode(&payload).map(Some);
            }
            if let Some(data) = self.exchange.next_data(limits, idle).await? {
                self.buffer.extend_from_slice(&data);
            } else {
                self.ended = true;
                return Err(GuestError::protocol("a stream without an end frame"));
            }
        }
    }

    fn take_frame(&mut self, limits: &Limits) -> Result<Option<(u8, Bytes)>, GuestError> {
        if self.buffer.len() < 5 {
            return Ok(None);
        }
        let length = (&self.buffer[1..5]).get_u32() as usize;
        if length > limits.frame_bytes {
            return Err(GuestError::TooLarge { what: "frame", limit: limits.frame_bytes });
        }
        if self.buffer.len() < 5 + length {
            return Ok(None);
        }
        let flags = self.buffer[0];
        self.buffer.advance(5);
        Ok(Some((flags, self.buffer.split_to(length).freeze())))
    }

    fn end(&self, payload: &[u8]) -> Result<(), GuestError> {
        if payload.len() > ERROR_LIMIT {
            return Err(GuestError::TooLarge { what: "end frame", limit: ERROR_LIMIT });
        }
        let end: EndOfStream =
            serde_json::from_slice(payload).map_err(|_| GuestError::protocol("an end frame that is not JSON"))?;
        let Some(error) = end.error else {
            return Ok(());
        };
        let told = end.metadata.get(REASON).and_then(|values| values.first()).and_then(|value| Reason::parse(value));
        Err(GuestError::Rejected {
            code: Code::parse(error.code.as_str().unwrap_or("")),
            reason: told.or(self.reason),
            message: shorten(error.message),
        })
    }
}
