//! What QEMU says to the keeper: a VMM that was taken over says what it likes.
//!
//! How it works: the bytes come in two pieces (the first byte says where they part), into a channel that waits for answers.
//!
//! Deliberately absent: the keeper's reaction to what was understood.

use std::time::Instant;

use atoll_keeper::qemu::qmp::Qmp;
use serde_json::Value;

use super::Target;

pub(super) const TARGET: Target = Target {
    name: "qmp",
    seeds: &[
        b"\x10{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 0, \"minor\": 2, \"major\": 7}}, \"capabilities\": [\"oob\"]}}\r\n",
        b"\x04{\"return\": {}, \"id\": 1}\r\n{\"event\": \"STOP\", \"timestamp\": {\"seconds\": 1, \"microseconds\": 2}}\r\n",
        b"\x20{\"id\": 2, \"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\r\n",
        b"\x02{\"event\": \"BLOCK_IO_ERROR\", \"data\": {\"device\": \"cow\", \"nospace\": true}}\n",
    ],
    dictionary: &[b"\"QMP\"", b"\"return\"", b"\"id\"", b"\"error\"", b"\"event\"", b"\"data\"", b"\r\n", b"{", b"}", b"["],
    memory: 32 << 20,
    run,
};

fn run(input: &[u8]) {
    let Some((first, rest)) = input.split_first() else { return };
    let now = Instant::now();
    let mut qmp = Qmp::default();
    for token in 1..4 {
        qmp.command(token, "query-status", &Value::Null, now);
    }
    let (head, tail) = rest.split_at(usize::from(*first).min(rest.len()));
    qmp.feed(head);
    qmp.feed(tail);
}
