//! Lines between host agent and keeper, read by either side.
//!
//! How it works: a line that one side understands, written again, must mean the same.
//!
//! Deliberately absent: the socket and the descriptors that come with a line.

use atoll_keeper::protocol::{Line, Request};

use super::Target;

pub(super) const TARGET: Target = Target {
    name: "keeper-lines",
    seeds: &[
        br#"{"id":1,"op":"state"}"#,
        br#"{"id":2,"op":"kill"}"#,
        br#"{"id":3,"op":"streams","port":49983,"count":2}"#,
        br#"{"id":1,"ok":"done"}"#,
        br#"{"event":"vmm_ended","status":0}"#,
    ],
    dictionary: &[
        b"\"id\":",
        b"\"op\":",
        b"\"ok\":",
        b"\"error\":",
        b"\"event\":",
        b"null",
        b"-1",
        b"18446744073709551615",
    ],
    memory: 32 << 20,
    run,
};

fn run(input: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<Request>(input) {
        same(&request);
    }
    if let Ok(line) = serde_json::from_slice::<Line>(input) {
        same(&line);
    }
}

/// Written and read again it is written the same way.
fn same<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) {
    let once = serde_json::to_vec(value).expect("what was read can be written");
    let again: T = serde_json::from_slice(&once).expect("what was written can be read");
    assert_eq!(serde_json::to_vec(&again).expect("what was read can be written"), once);
}
