//! Any bytes into every parser; the fuzz targets do the same for longer.

use atoll_keeper::fuzz;
use proptest::prelude::*;

fn documents() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\n",
        "\"id\"",
        "7",
        "\"op\"",
        "\"snapshot\"",
        "\"then\"",
        "\"stay\"",
        "\"return\"",
        "\"error\"",
        "\"desc\"",
        "\"event\"",
        "\"data\"",
        "\"ok\"",
        "\"empty\"",
        "null",
        "-1",
        "1e99",
        "\"QMP\"",
        "\"claim\"",
        "\"number\"",
        "\u{fffd}",
        "7f00-8f00 rw-p 0 0:0 1 x",
    ]);
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..6000),
        prop::collection::vec(words, 0..60).prop_map(|words| words.concat().into_bytes()),
    ]
}

proptest! {
    #[test]
    fn no_parser_breaks_its_promises(bytes in documents()) {
        fuzz::qmp(&bytes);
        fuzz::protocol(&bytes);
        fuzz::memory_diff(&bytes);
        fuzz::maps(&bytes);
    }
}

#[test]
fn what_is_meant_is_read() {
    fuzz::protocol(br#"{"id":1,"op":"snapshot","then":"stay"}"#);
    fuzz::qmp(b"{\"QMP\":{}}\n{\"id\":7,\"return\":{}}\n{\"id\":7,\"return\":{}}\n");
}
