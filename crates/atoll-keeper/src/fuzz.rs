//! What hostile bytes are tried on: one function per parser, for the fuzz targets and for the property tests.
//!
//! How it works: each takes any bytes and panics when a promise is broken: memory stays bounded, what was read reads the same again
//! once it is written, a table never leaves its memory.
//!
//! Deliberately absent: the fuzzers themselves.

use std::time::Instant;

use serde_json::Value;

use crate::memory::diff::Header;
use crate::memory::pagemap::segments;
use crate::memory::{PAGE, PAGE_LEN};
use crate::protocol::{Line, Request};
use crate::qemu::qmp::{Heard, Qmp};

/// What a VMM says on its control channel, in pieces as long as the first byte says.
pub fn qmp(bytes: &[u8]) {
    let size = usize::from(bytes.first().copied().unwrap_or(1)).max(1);
    let mut channel = Qmp::default();
    channel.command(7, "query-status", &Value::Null, Instant::now());
    let mut answers = 0;
    for piece in bytes.chunks(size) {
        for heard in channel.feed(piece) {
            answers += usize::from(matches!(heard, Heard::Answer { .. }));
        }
    }
    assert!(answers <= 1, "one command was answered {answers} times");
}

/// A line of either side of the keeper's socket.
pub fn protocol(bytes: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(bytes) {
        let text = serde_json::to_vec(&request).expect("what was read can be written");
        let again: Request = serde_json::from_slice(&text).expect("what was written can be read");
        assert_eq!((again.id, again.op.name()), (request.id, request.op.name()));
    }
    if let Ok(line) = serde_json::from_slice::<Line>(bytes) {
        let text = serde_json::to_vec(&line).expect("what was read can be written");
        serde_json::from_slice::<Line>(&text).expect("what was written can be read");
    }
}

/// Header and table of a memory diff.
pub fn memory_diff(bytes: &[u8]) {
    let Ok(header) = Header::parse(bytes, bytes.len() as u64) else { return };
    let table = usize::try_from(header.data_pages).map_or(0, |pages| (pages + 1) * PAGE_LEN);
    let Ok(extents) = header.table(&bytes[table..]) else { return };
    for extent in extents {
        assert!((extent.first + u64::from(extent.pages)) * PAGE <= header.memory);
    }
}

/// The mappings of a VMM.
pub fn maps(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let pages = 16;
    if let Ok(found) = segments(text, 1, pages * PAGE) {
        assert_eq!(found.iter().map(|segment| segment.pages).sum::<u64>(), pages);
    }
}
