//! What the guest's agent decodes: envd messages in both codings, forms, ranges, paths, `/init`.
//!
//! How it works: the first byte picks the decoder. Whoever reaches the agent's port, a neighbour's program among them, sends
//! what it likes; the agent may refuse it and nothing else.
//!
//! Deliberately absent: what the agent does with a message that it understood.

use super::Target;

pub(super) const TARGET: Target = Target {
    name: "agent-decoders",
    seeds: &[
        b"\0--XX\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a\\\"b\"\r\n\r\nx\r\n--XX--",
        b"\x01bytes=1-2,5-",
        b"\x02path=%2Fetc%2Fpasswd&username=root",
        b"\x03~/../file",
        b"\x04{\"accessToken\":\"0123456789abcdef\",\"timestampNs\":1,\"generation\":\"g\",\"envVars\":{\"a\":\"b\"}}",
        b"\x05\x0a\x0a\x0a\x02ls\x12\x01-\x1a\x01k\x12\x04\x0a\x02\x08\x50",
        b"\x05{\"process\":{\"cmd\":\"ls\",\"args\":[\"-l\"],\"envs\":{\"A\":\"b\"}},\"pty\":{\"size\":{\"cols\":80,\"rows\":24}},\"wantOffsets\":true}",
        b"\x06{\"process\":{\"tag\":\"t\"},\"offset\":\"18446744073709551615\"}",
        b"\x07{\"data\":{\"input\":{\"stdin\":\"aGVsbG8=\"}}}",
        b"\x08{\"process\":{\"pid\":1},\"signal\":\"SIGNAL_SIGKILL\"}",
        b"\x0a{\"path\":\"/\",\"recursive\":true}",
        b"\x0b\x0a\x01/\x10\xff\xff\xff\xff\x0f",
    ],
    dictionary: &[
        b"--XX", b"\r\n\r\n", b"name=\"", b"bytes=", b"%00", b"..", b"~", b"\"process\":", b"\"pid\":", b"\"tag\":",
        b"\"size\":", b"\"offset\":", b"\xff\xff\xff\xff\x0f", b"\x0a\xff\xff\xff\xff\x07", b"{", b"}", b"null",
    ],
    memory: 32 << 20,
    run: atoll_guest::fuzz::decode,
};
