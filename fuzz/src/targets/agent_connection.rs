//! A connection to the guest's agent: HTTP heads, Connect frames, bodies that end too early or never.
//!
//! How it works: a whole agent in memory, with a token that the input cannot know, reads the input as one connection's bytes.
//! The target fails when the agent starts anything, lets the connection hang, panics, or takes memory for what it was only
//! promised (an envelope that says 4 GiB).
//!
//! Deliberately absent: everything behind the token.

use super::Target;

pub(super) const TARGET: Target = Target {
    name: "agent-connection",
    seeds: &[
        b"GET /health HTTP/1.1\r\nhost: x\r\n\r\nGET /envs HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST /init HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}",
        b"POST /process.Process/Start HTTP/1.1\r\nhost: x\r\ncontent-type: application/connect+proto\r\ntransfer-encoding: chunked\r\n\r\n5\r\n\0\xff\xff\xff\xff\r\n",
        b"POST /process.Process/StreamInput HTTP/1.1\r\nhost: x\r\ncontent-type: application/connect+json\r\nconnect-timeout-ms: 5\r\ncontent-length: 7\r\n\r\n\0\0\0\0\x02{}",
        b"POST /process.Process/List HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
        b"POST /filesystem.Filesystem/ListDir HTTP/1.1\r\nhost: x\r\ncontent-type: application/proto\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n\x1f\x8b\x08\0",
        b"GET /files?path=/etc/passwd&signature=v1_x&signature_expiration=1 HTTP/1.1\r\nhost: x\r\nrange: bytes=0-1\r\n\r\n",
        b"POST /files?path=/tmp/x HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=XX\r\ncontent-length: 99999\r\n\r\n--XX",
    ],
    dictionary: &[
        b"HTTP/1.1\r\n", b"\r\n\r\n", b"content-type: application/connect+proto\r\n", b"content-type: application/proto\r\n",
        b"transfer-encoding: chunked\r\n", b"content-length: ", b"content-encoding: gzip\r\n", b"x-access-token: \r\n",
        b"authorization: Basic cm9vdDo=\r\n", b"connect-timeout-ms: 1\r\n", b"keepalive-ping-interval: 0\r\n",
        b"expect: 100-continue\r\n", b"\0\xff\xff\xff\xff", b"\x02\0\0\0\0", b"ffffffffffffffff\r\n", b"0\r\n\r\n",
    ],
    memory: 48 << 20,
    run: atoll_guest::fuzz::connection,
};
